"""A real Prometheus scrapes the real stack, and the autoscalers' queries are asked of it under load."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import duration_pb2

from antiphon.v1 import generator_pb2, generator_pb2_grpc
from services.stack.ports import HOST, Ports
from services.stack.stack import Stack
from tests.conftest import require
from tests.integration import calls
from tests.kubernetes import test_rules as rules

SCRAPE_SECONDS = 1
STREAMS = 3


class Prometheus:
    """A running Prometheus; `value` asks it a query that has one answer."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The answer's samples."""
        parameters = urllib.parse.urlencode({"query": query})
        answer = json.loads(calls.get(f"{self.url}/api/v1/query?{parameters}"))
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, query: str) -> float | None:
        """The one sample's value; None where there is none yet."""
        found = self.ask(query)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    # What a PodMonitor would add.
    jobs = [job(name, f"{HOST}:{stack.ports.metrics[name]}", "/metrics") for name in ("generator", "codec", "analyzer")]
    jobs.append(job("edge", f"{HOST}:{stack.ports.admin}", "/stats/prometheus"))
    seconds = f"{SCRAPE_SECONDS}s"
    config = {"global": {"scrape_interval": seconds, "scrape_timeout": seconds}, "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = Ports.free().edge
    command = [require("prometheus"), f"--config.file={folder / 'prometheus.yaml'}", "--log.level=warn"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={HOST}:{port}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            running = Prometheus(f"http://{HOST}:{port}")
            until(lambda: ready(running, process, folder / "log"))
            yield running
        finally:
            process.terminate()


def job(name: str, address: str, path: str) -> dict[str, Any]:
    labels = {"namespace": "antiphon", "pod": f"{name}-a", "job": name}
    return {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [address], "labels": labels}]}


def ready(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return prometheus.value("count(up == 1)") == 4
    except OSError:
        return False


def until(condition: Any) -> None:
    """Waits; the test's own timeout bounds it."""
    while not condition():
        time.sleep(0.1)


def exported(stack: Stack, name: str) -> float:
    """A gauge of the generator over all its models, as the service itself says it now."""
    text = calls.get(f"http://{HOST}:{stack.ports.metrics['generator']}/metrics")
    values = re.findall(rf'^{name}{{model="[^"]+"}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, values))


def hold(channel: Any) -> Any:
    """Begins a stream whose listener gives credit for half a second and no more: it keeps its slot."""
    config = generator_pb2.GenerationConfig(
        prompts=[generator_pb2.WeightedPrompt(text="calm piano")],
        duration=duration_pb2.Duration(seconds=20),
        pacing=generator_pb2.Pacing(initial_credit=duration_pb2.Duration(nanos=500_000_000)),
    )
    requests = [generator_pb2.StreamGenerateRequest(config=config)]
    call = generator_pb2_grpc.GeneratorServiceStub(channel).StreamGenerate(endless(requests), timeout=120)
    assert next(call).WhichOneof("response") == "started"
    return call


def endless(requests: list[Any]) -> Iterator[Any]:
    """The requests, and then a side that stays open."""
    yield from requests
    time.sleep(120)


def test_the_autoscalers_query_is_slots_in_use_over_slots(stack: Stack, prometheus: Prometheus) -> None:
    query = rules.adapter_queries("generator-a")["antiphon_slots_used_ratio"]
    until(lambda: prometheus.value(query) == 0)
    with calls.connected(stack) as channel, ExitStack() as held:
        for count in range(1, STREAMS + 1):
            held.callback(hold(channel).cancel)
            until(lambda count=count: exported(stack, "antiphon_slots_active") == count)
            expected = count / exported(stack, "antiphon_slots")
            # Within one scrape: the sample whose time is after this moment has to say so.
            now = time.time()
            until(lambda now=now: (prometheus.value('min(timestamp(antiphon_slots{pod="generator-a"}))') or 0) > now)
            assert prometheus.value(query) == expected
    until(lambda: prometheus.value(query) == 0)


def test_every_query_of_an_autoscaler_has_a_number(prometheus: Prometheus, tmp_path: Path) -> None:
    for name, query in rules.adapter_queries("generator-a").items():
        until(lambda query=query: prometheus.value(query) is not None)
        value = prometheus.value(query)
        assert value is not None
        assert math.isfinite(value), name
    for query in rules.keda_queries(tmp_path):
        value = prometheus.value(query)
        assert value is not None
        assert math.isfinite(value), query


def test_what_is_read_of_envoy_is_exported(prometheus: Prometheus) -> None:
    expressions = [rule["expr"] for group in rules.rules()["groups"] for rule in group["rules"]]
    expressions += rules.dashboard_queries()
    read = {name for expression in expressions for name in rules.names(expression) if name.startswith("envoy_")}
    assert read
    for name in read:
        assert prometheus.ask(f"count({name})"), name
