# Every target is what CI runs. Needs python3, make and PyPI; all else is set up in .venv.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO_INCLUDE = $(shell $(BIN)/python -c "import google.api, pathlib; print(pathlib.Path(list(google.api.__path__)[0]).parents[1])")
PROTOS := $(sort $(wildcard protos/antiphon/v1/*.proto))
STUBS := clients/python
REST := k8s/base/envoy/rest
TYPESCRIPT := clients/typescript
# The Node that comes with Playwright: TypeScript wants 20 or newer.
NODE = $(shell $(BIN)/python -c "import pathlib, playwright; print(pathlib.Path(playwright.__file__).parent / 'driver')")
PACKAGES := clients services tests
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup demo up test lint format protos protos-check check web examples notebooks abuse chaos bench images kube-play k8s-check lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install everything, hashes checked

$(BIN)/uv:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"

$(STAMP): $(BIN)/uv requirements/dev.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP) ## Start the stack, stream ten seconds of music through Envoy to out/demo.wav, stop
	$(BIN)/python -m services.stack demo

up: $(STAMP) ## Start every service and Envoy; stop with Ctrl-C (SECURE=1: with TLS, a key and mTLS)
	$(BIN)/python -m services.stack up $(if $(SECURE),--secure)

# A file's tests stay in one process, where they share what they set up. One thread each: two processes that wait for
# each other's threads are slower than one.
test: $(STAMP) ## Run the tests, in JOBS processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(STAMP) ## Lint code and protos, check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory protos-check

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP) ## Make the Python stubs, Envoy's descriptors, the OpenAPI document and docs/api.md from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos -I $(PROTO_INCLUDE) \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=$(STUBS) --pyi_out=$(STUBS) --grpc_python_out=$(STUBS) --mypy_grpc_out=$(STUBS) $(PROTOS)
	@mkdir -p .cache
	$(BIN)/python -m grpc_tools.protoc -I protos -I $(PROTO_INCLUDE) --include_imports --include_source_info \
	  --descriptor_set_out=.cache/protos.pb $(PROTOS) google/rpc/error_details.proto google/rpc/status.proto
	$(BIN)/python -m services.edge .cache/protos.pb $(REST) docs/api.md

protos-check: $(STAMP) ## buf lint, buf breaking against main, stubs as committed
	@rm -rf .cache/buf && mkdir -p .cache/buf/third_party/google
	@cp -r protos/. .cache/buf/ && cp -r $(PROTO_INCLUDE)/google/api $(PROTO_INCLUDE)/google/rpc .cache/buf/third_party/google/
	cd .cache/buf && $(CURDIR)/$(BIN)/buf lint
	$(BIN)/python tests/contract/breaking.py
	@$(MAKE) --no-print-directory protos
	git diff --exit-code -- $(STUBS)/antiphon/v1 $(REST) docs/api.md

check: lint test ## What CI runs: lint, generated files, tests

web: $(STAMP) ## Make the TypeScript stubs from protos/ and the page from clients/web; needs npm
	cd $(TYPESCRIPT) && npm ci --ignore-scripts --no-audit --no-fund
	PATH=$(NODE):$$PATH $(BIN)/python -m grpc_tools.protoc -I protos -I $(PROTO_INCLUDE) \
	  --plugin=protoc-gen-es=$(TYPESCRIPT)/node_modules/.bin/protoc-gen-es --es_out=$(TYPESCRIPT)/src/gen \
	  --es_opt=target=ts,import_extension=js $(PROTOS) google/api/annotations.proto google/api/http.proto \
	  google/api/httpbody.proto google/rpc/error_details.proto
	cd $(TYPESCRIPT) && PATH=$(NODE):$$PATH node bundle.mjs

examples: $(STAMP) ## Run the programs and notebooks of clients/ against a stack of their own; each says how long it took
	$(BIN)/python -m services.stack run -- sh -e clients/examples/all.sh $(CURDIR)/$(BIN)/python

notebooks: $(STAMP) ## Run clients/notebooks and keep what their cells show
	$(BIN)/python -m services.stack run -- $(CURDIR)/$(BIN)/python clients/notebooks/execute.py $(wildcard clients/notebooks/*.ipynb)

abuse: $(STAMP) ## Attack a stack: 5,000 malformed requests and more; the last line is one JSON object
	$(BIN)/python -m tests.abuse

chaos: $(STAMP) ## Inject faults under load into two replicas of everything; the last line is one JSON object
	$(BIN)/python -m tests.chaos

bench: $(STAMP) ## Measure; the last line is one JSON object
	$(BIN)/python -m tests.bench generator --shape tiny

k8s-check: $(STAMP) ## Render and check k8s/: schemas, policies, Envoy, rules
	$(BIN)/python -m pytest tests/kubernetes --ignore tests/kubernetes/test_live.py

kube-play: $(STAMP) ## Let podman run the images of the local overlay, and test them end to end; after make images
	ANTIPHON_REQUIRE_ALL=1 $(BIN)/python -m pytest tests/kubernetes/played.py

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
VARIANT ?= cpu
TAG = $(VERSION)$(if $(filter cuda,$(VARIANT)),-cuda)
BUILD = $(firstword $(foreach tool,docker podman buildah,$(if $(shell command -v $(tool)),$(tool))))
# In the other format podman and buildah pass over SHELL, and with it pipefail.
BUILD_FLAGS ?= $(if $(filter docker,$(notdir $(BUILD))),,--format docker)
BUILD_IMAGE = $(BUILD) build $(BUILD_FLAGS) --build-arg VERSION=$(VERSION) \
  --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null)

images: ## Build the images with docker, podman or buildah (VARIANT=cpu|cuda, BUILD_FLAGS)
	$(BUILD_IMAGE) -t antiphon/edge:$(VERSION) -f k8s/images/edge/Dockerfile .
	$(BUILD_IMAGE) --build-arg VARIANT=$(VARIANT) -t antiphon/runtime:$(TAG) -f k8s/images/runtime/Dockerfile .
	for service in generator codec analyzer; do \
	  $(BUILD_IMAGE) --build-arg RUNTIME=antiphon/runtime:$(TAG) -t antiphon/$$service:$(TAG) \
	    -f services/$$service/Dockerfile . || exit 1; \
	done

lock: $(BIN)/uv ## Resolve requirements/ anew
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --extra server --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -c requirements/dev.txt -o requirements/server.txt
	$(BIN)/uv pip compile --quiet requirements/policies.in --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/policies.txt

clean: ## Remove what the targets made
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache out dist build
