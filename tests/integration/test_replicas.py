"""Which replica a control call reaches, and how a stream's end is told: the real Envoy, services without a model."""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from antiphon.v1 import generator_pb2 as pb
from services.stack.ports import HOST, SERVICES
from services.stack.stack import Stack
from tests.integration import calls, tiny_service, web

SERVICE = SERVICES["generator"]
STREAM = "x-antiphon-stream"


@contextmanager
def replica() -> Iterator[tuple[str, int]]:
    """A generator that knows no model: a stream's id is its port, and a control call that asks for another fails."""

    def open_generation(request: Any, context: grpc.ServicerContext) -> Iterator[pb.OpenGenerationResponse]:
        yield pb.OpenGenerationResponse(stream_id=str(port))

    def control_generation(request: Any, context: grpc.ServicerContext) -> pb.ControlGenerationResponse:
        if request.stream_id != str(port):
            context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        return pb.ControlGenerationResponse()

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "OpenGeneration": grpc.unary_stream_rpc_method_handler(
            open_generation, pb.OpenGenerationRequest.FromString, pb.OpenGenerationResponse.SerializeToString
        ),
        "ControlGeneration": grpc.unary_unary_rpc_method_handler(
            control_generation, pb.ControlGenerationRequest.FromString, pb.ControlGenerationResponse.SerializeToString
        ),
    }
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    healthy = health.HealthServicer()
    healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        yield HOST, port
    finally:
        server.stop(grace=None).wait()


class Browser:
    """Calls as a page makes them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._headers = {"content-type": web.GRPC_WEB, "x-grpc-web": "1"}

    def open(self) -> tuple[str, str]:
        """The id and the header of a new stream."""
        body = web.framed(pb.OpenGenerationRequest())
        with web.opened(self._stack, "POST", f"/{SERVICE}/OpenGeneration", body, self._headers) as reply:
            (_, message), _ = web.frames(reply)
            return pb.OpenGenerationResponse.FromString(message).stream_id, str(reply.headers[STREAM])

    def control(self, stream_id: str, header: str) -> str:
        """The status of a control call."""
        body = web.framed(pb.ControlGenerationRequest(stream_id=stream_id))
        headers = {**self._headers, STREAM: header}
        reply = web.call(self._stack, "POST", f"/{SERVICE}/ControlGeneration", body, headers)
        return reply.headers.get("grpc-status") or web.trailers(reply.body[10:])["grpc-status"]


def test_a_control_call_reaches_the_replica_of_its_stream_and_no_other(tmp_path: Path) -> None:
    with ExitStack() as second, replica() as first:
        hosts = [first, second.enter_context(replica())]
        with Stack(services=[], folder=tmp_path, hosts={"generator": hosts}) as stack:
            with calls.connected(stack) as channel:
                calls.wait_serving(channel, "generator")
            browser = Browser(stack)
            streams: dict[str, str] = {}
            while len(streams) < 2:
                stream_id, header = browser.open()
                streams[stream_id] = header
            for _ in range(4):
                assert {browser.control(*stream) for stream in streams.items()} == {"0"}
            gone, there = str(hosts[1][1]), str(hosts[0][1])
            second.close()
            # The other one is well, but it does not have the stream.
            assert browser.control(gone, streams[gone]) == "14"
            assert browser.control(there, streams[there]) == "0"


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A generator whose streams fail when their text says so."""
    command = [sys.executable, "-m", tiny_service.__name__]
    folder = tmp_path_factory.mktemp("failing")
    with Stack(services=["generator"], commands={"generator": command}, folder=folder, keep_going=True) as running:
        yield running


def test_an_error_in_mid_stream_stands_behind_the_body(failing: Stack) -> None:
    """The status was sent long ago; HTTP/1.1 has trailers too."""
    with socket.create_connection((HOST, failing.ports.edge), timeout=60) as connection:
        head = "POST /generate/music HTTP/1.1\r\nhost: edge\r\nconnection: close\r\ncontent-length: 15\r\n\r\n"
        connection.sendall(head.encode() + b'{"text":"full"}')
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    headers, _, body = reply.decode().partition("\r\n\r\n")
    assert headers.startswith("HTTP/1.1 200 OK")
    assert body.startswith("1\r\n0\r\n0\r\n"), "a byte of audio, and the end of the chunks"
    trailers = dict(line.split(": ", 1) for line in body.splitlines()[3:] if line)
    assert trailers["grpc-status"] == "8"
    assert trailers["grpc-message"] == "the queue is full"
    assert trailers["retry-after"] == "3"


def test_a_service_that_dies_in_mid_stream_breaks_the_body(failing: Stack) -> None:
    """No client takes what came for the whole; curl exits with 18."""
    with web.opened(failing, "POST", "/generate/music", {"model": "endless"}) as reply:
        assert reply.read(1)
        psutil.Process(failing.processes["generator"].pid).kill()
        with pytest.raises(http.client.IncompleteRead):
            while reply.read(4096):
                pass
