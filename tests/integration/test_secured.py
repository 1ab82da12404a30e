"""The production path through real Envoys: TLS and keys at the edge, mTLS to a sidecar, a service on a Unix socket."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from antiphon import Client, HealthStatus, ResourceExhaustedError, Service, UnauthenticatedError
from antiphon.v1 import generator_pb2, generator_pb2_grpc
from services.stack import credentials
from services.stack.credentials import Credentials
from services.stack.ports import HOST, SERVICES
from services.stack.secured import Secured
from services.stack.stack import Stack
from tests.integration import calls, plain_service, web

METHOD = "/antiphon.v1.GeneratorService/ListModels"
KEYS = {"a-key": "ann", "b-key": "bob"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("secured")
    with Stack(services=["generator"], commands=plain_service.commands(), folder=folder, secure=True) as running:
        yield running


@pytest.fixture
def secured(stack: Stack) -> Secured:
    assert stack.secured is not None
    return stack.secured


@pytest.fixture
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with calls.connected(stack) as connection:
        yield connection


def bearer(secured: Secured) -> tuple[str, str]:
    return "authorization", f"Bearer {secured.credentials.api_key}"


def told(channel: grpc.Channel, *metadata: tuple[str, str]) -> dict[str, str]:
    """What the service has heard of a call."""
    method: Any = channel.unary_unary(METHOD)
    _, call = method.with_call(b"", metadata=metadata, timeout=10)
    return dict(call.trailing_metadata())


def refused(channel: grpc.Channel, *metadata: tuple[str, str]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        told(channel, *metadata)
    return caught.value


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def handshake(port: int, context: ssl.SSLContext) -> bytes:
    """Connects with TLS, waits for the other side to have judged us, and returns its certificate."""
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((HOST, port), timeout=5) as plain, context.wrap_socket(plain) as wrapped:
        # With TLS 1.3 a refused certificate shows at the first read.
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        if not wrapped.recv(1):
            raise ConnectionError("closed")
        return wrapped.getpeercert(binary_form=True) or b""


def test_a_call_and_a_stream_go_all_the_way(stack: Stack, secured: Secured) -> None:
    with Client(stack.address, api_key=secured.credentials.api_key, root_certificates=root(secured)) as client:
        assert client.health()[Service.GENERATOR] is HealthStatus.SERVING
        chunks = list(client.stream_generate("a song", duration=0.5))
    assert sum(len(chunk.samples) for chunk in chunks) == 16_000


def root(secured: Secured) -> bytes:
    return secured.credentials.root_certificates


def test_the_identity_is_the_keys(channel: grpc.Channel, secured: Secured) -> None:
    heard = told(channel, bearer(secured), ("x-client-id", "somebody else"), ("x-request-id", "call-7"))
    assert heard["x-client-id"] == "local"
    assert heard["x-request-id"] == "call-7"
    # The key itself goes no further than the edge.
    assert "authorization" not in heard
    assert told(channel, ("x-api-key", secured.credentials.api_key))["x-client-id"] == "local"


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer ")],
        [("x-client-id", "local")],
        [("x-api-key", "wrong")],
    ],
)
def test_without_a_valid_key_nobody_gets_in(channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
    error = refused(channel, *metadata)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "API key" in error.details()


def test_the_client_says_so(stack: Stack, secured: Secured) -> None:
    with (
        Client(stack.address, api_key="wrong", root_certificates=root(secured)) as client,
        pytest.raises(UnauthenticatedError, match="API key"),
    ):
        list(client.stream_generate("a song", duration=0.5))


def test_http_callers_get_401_and_a_reason(stack: Stack, secured: Secured) -> None:
    trusted = ssl.create_default_context(cadata=root(secured).decode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(f"https://{stack.address}/models", timeout=10)
    assert caught.value.code == 401
    assert caught.value.headers["www-authenticate"] == "Bearer"
    assert b"API key" in caught.value.read()


def test_rest_asks_for_the_same_key_but_for_what_is_public(stack: Stack, secured: Secured) -> None:
    refused = web.call(stack, "GET", "/models")
    assert (refused.status, refused.json["code"], refused.headers["www-authenticate"]) == (401, 16, "Bearer")
    models = web.call(stack, "GET", "/models", headers=dict([bearer(secured)]))
    assert [model["name"] for model in models.json["models"]] == ["generator"]
    assert web.call(stack, "GET", "/health").json["status"] == "degraded"
    for path in ("/openapi.json", "/docs", "/docs.js", "/docs.css"):
        assert web.call(stack, "GET", path).status == 200


def test_health_needs_no_key_and_watching_does(channel: grpc.Channel) -> None:
    assert calls.health(channel, SERVICES["generator"], None) == health_pb2.HealthCheckResponse.SERVING
    watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(b"", timeout=5))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_client_that_does_not_know_the_authority_is_not_served(stack: Stack) -> None:
    other = Credentials()
    with (
        grpc.secure_channel(stack.address, grpc.ssl_channel_credentials(other.root_certificates)) as stranger,
        pytest.raises(grpc.RpcError) as caught,
    ):
        told(stranger)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_plain_text_is_not_served(stack: Stack) -> None:
    with grpc.insecure_channel(stack.address) as plain, pytest.raises(grpc.RpcError) as caught:
        told(plain)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("who", ["nobody", "codec", "a stranger's edge", "public"])
def test_a_sidecar_lets_in_the_edge_alone(stack: Stack, secured: Secured, tmp_path: Path, who: str) -> None:
    context = ssl.create_default_context(cafile=str(stack.folder / "edge" / "tls" / "workload" / "ca.crt"))
    files = {
        "nobody": None,
        "codec": secured.credentials.workload("codec"),
        "a stranger's edge": Credentials().workload("edge"),
        "public": secured.credentials.public("edge.antiphon.internal"),
    }[who]
    if files is not None:
        credentials.mount(tmp_path / "own", files)
        context.load_cert_chain(tmp_path / "own" / "tls.crt", tmp_path / "own" / "tls.key")
    with pytest.raises(OSError):
        handshake(stack.ports.services["generator"], context)


def test_a_sidecar_lets_in_the_edge(stack: Stack, secured: Secured, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(stack.folder / "edge" / "tls" / "workload" / "ca.crt"))
    credentials.mount(tmp_path / "own", secured.credentials.workload("edge"))
    context.load_cert_chain(tmp_path / "own" / "tls.crt", tmp_path / "own" / "tls.key")
    assert handshake(stack.ports.services["generator"], context)


def test_the_service_listens_on_its_socket_alone(stack: Stack, secured: Secured) -> None:
    service = psutil.Process(stack.processes["generator"].pid)
    listening = [item.laddr for item in service.net_connections() if item.status == psutil.CONN_LISTEN]
    assert {address.port for address in listening} == {stack.ports.metrics["generator"]}
    assert {address.ip for address in listening} == {HOST}
    assert stat.S_IMODE(secured.socket("generator").stat().st_mode) == 0o660
    assert stat.S_IMODE(secured.socket("generator").parent.stat().st_mode) == 0o700


def test_probes_and_figures_need_no_certificate_and_give_nothing_else(stack: Stack) -> None:
    watch = f"{HOST}:{stack.ports.watch['generator']}"
    with grpc.insecure_channel(watch) as plain:
        assert calls.health(plain, SERVICES["generator"], None) == health_pb2.HealthCheckResponse.SERVING
        error = refused(plain)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "antiphon_build_info" in calls.get(f"http://{watch}/metrics")
    assert "envoy_http_downstream_rq_total" in calls.get(f"http://{watch}/stats/prometheus")
    for path in ("/", "/config_dump", "/stats", "/quitquitquit"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            calls.get(f"http://{watch}{path}")
        assert caught.value.code == 404


def test_one_request_id_in_every_log(stack: Stack, channel: grpc.Channel, secured: Secured) -> None:
    told(channel, bearer(secured), ("x-request-id", "trace-me-1"))
    assert eventually(lambda: "trace-me-1" in stack.log("envoy") and "trace-me-1" in stack.log("generator"))
    assert secured.credentials.api_key not in stack.log("envoy")
    error = refused(channel, bearer(secured), ("x-request-id", "trace-me-2"), ("x-raise", "Internal"))
    assert dict(error.trailing_metadata())["x-request-id"] == "trace-me-2"


def test_keys_change_without_a_restart(stack: Stack, channel: grpc.Channel, secured: Secured) -> None:
    before = stack.processes["envoy"].pid
    secured.mount_identity({"identity.yaml": credentials.api_keys(KEYS)})
    try:
        assert eventually(lambda: succeeds(channel, ("authorization", "Bearer a-key")))
        assert told(channel, ("x-api-key", "b-key"))["x-client-id"] == "bob"
        assert refused(channel, bearer(secured)).code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        secured.mount_identity(secured.credentials.identity())
    assert eventually(lambda: succeeds(channel, bearer(secured)))
    assert stack.processes["envoy"].pid == before


def succeeds(channel: grpc.Channel, *metadata: tuple[str, str]) -> bool:
    try:
        told(channel, *metadata)
    except grpc.RpcError:
        return False
    return True


def test_certificates_change_without_a_restart_and_streams_go_on(stack: Stack, secured: Secured) -> None:
    public = ssl.create_default_context(cadata=root(secured).decode())
    mesh = ssl.create_default_context(cafile=str(stack.folder / "edge" / "tls" / "workload" / "ca.crt"))
    own = stack.folder / "edge" / "tls" / "workload"
    mesh.load_cert_chain(own / "tls.crt", own / "tls.key")
    ports = {stack.ports.edge: public, stack.ports.services["generator"]: mesh}
    old = {port: handshake(port, context) for port, context in ports.items()}
    with calls.connected(stack) as channel:
        config = generator_pb2.GenerationConfig(prompts=[generator_pb2.WeightedPrompt(text="a")])
        config.duration.FromSeconds(2)
        requests = iter([generator_pb2.StreamGenerateRequest(config=config)])
        stream = generator_pb2_grpc.GeneratorServiceStub(channel).StreamGenerate(
            requests, metadata=(bearer(secured),), timeout=30
        )
        responses = [next(stream), next(stream)]
        secured.mount_public("localhost", HOST)
        secured.mount_workload("generator")
        secured.mount_workload("edge")
        for port, context in ports.items():
            assert eventually(lambda port=port, context=context: handshake(port, context) != old[port])  # type: ignore[misc]
        calls.assert_whole(responses + list(stream), 2.0)
    with calls.connected(stack) as fresh:
        assert told(fresh, bearer(secured))["x-client-id"] == "local"


def test_a_json_web_token_is_an_identity_too(stack: Stack, channel: grpc.Channel, secured: Secured) -> None:
    key, token = signed({"iss": "antiphon-tests", "sub": "carol", "exp": int(time.time()) + 600})
    rules = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {
            "tests": {
                "issuer": "antiphon-tests",
                "local_jwks": {"inline_string": json.dumps({"keys": [key]})},
                "claim_to_headers": [{"claim_name": "sub", "header_name": "x-client-id"}],
            }
        },
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "tests"}}],
    }
    secured.mount_identity({"identity.yaml": credentials.identity(rules)})
    try:
        assert eventually(lambda: succeeds(channel, ("authorization", f"Bearer {token}")))
        heard = told(channel, ("authorization", f"Bearer {token}"), ("x-client-id", "mallory"))
        assert heard["x-client-id"] == "carol"
        forged = token[:-20] + token[-19:]
        assert refused(channel, ("authorization", f"Bearer {forged}")).code() is grpc.StatusCode.UNAUTHENTICATED
        assert refused(channel).code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        secured.mount_identity(secured.credentials.identity())
    assert eventually(lambda: succeeds(channel, bearer(secured)))


def signed(claims: dict[str, Any]) -> tuple[dict[str, str], str]:
    """A new public key as a JWK, and a token of these claims that it verifies (ES256: RFC 7515, RFC 7518)."""
    import base64

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    private = ec.generate_private_key(ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    key = {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1"}
    key |= {name: encoded(getattr(numbers, name).to_bytes(32, "big")) for name in ("x", "y")}
    head = encoded(json.dumps({"alg": "ES256", "kid": "1"}).encode())
    body = f"{head}.{encoded(json.dumps(claims).encode())}"
    r, s = decode_dss_signature(private.sign(body.encode(), ec.ECDSA(hashes.SHA256())))
    return key, f"{body}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


RATES = {
    "name": "rate_limit",
    "typed_config": {
        "descriptors": [
            {
                "entries": [{"key": "client", "value": "ann"}],
                "token_bucket": {"max_tokens": 3, "tokens_per_fill": 3, "fill_interval": "60s"},
            }
        ]
    },
}


def test_every_key_has_a_rate_of_its_own(tmp_path: Path) -> None:
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": {"http_filters": [RATES]}}
    listener = {"name": "edge", "filter_chains": [{"name": "edge", "filters": [manager]}]}
    with (
        Stack(
            services=["codec"],
            commands=plain_service.commands(),
            folder=tmp_path,
            secure=True,
            patch={"static_resources": {"listeners": [listener]}},
        ) as own,
    ):
        assert own.secured is not None
        own.secured.mount_identity({"identity.yaml": credentials.api_keys(KEYS)})
        path = "/antiphon.v1.CodecService/ListModels"
        with calls.connected(own) as channel:
            method: Any = channel.unary_unary(path)

            def ask(key: str) -> str:
                try:
                    method(b"", metadata=[("x-api-key", key)], timeout=10)
                except grpc.RpcError as error:
                    return str(error.code().name)
                return "OK"

            assert eventually(lambda: ask("b-key") == "OK")
            assert [ask("a-key") for _ in range(5)] == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"] * 2
            assert ask("b-key") == "OK"
        with (
            Client(own.address, api_key="a-key", root_certificates=root(own.secured), resume=False) as client,
            pytest.raises(ResourceExhaustedError) as caught,
        ):
            list(client.stream_generate("a song", duration=1.0))
        assert caught.value.retry_after_seconds == 1.0
        assert caught.value.reason == "RATE_LIMITED"
