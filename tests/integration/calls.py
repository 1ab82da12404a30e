"""Bare gRPC and HTTP calls for tests of the edge and the stack, without the client's typing and errors."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from antiphon.v1 import generator_pb2, generator_pb2_grpc
from services.stack.ports import SERVICES
from services.stack.stack import Stack


@contextmanager
def connected(stack: Stack) -> Iterator[grpc.Channel]:
    """A channel to the stack's Envoy."""
    with stack.channel() as channel:
        yield channel


def health(channel: grpc.Channel, service: str, target: str | None) -> int:
    """The health of gRPC service `service`, asked of the service behind Envoy that `target` names."""
    metadata = [] if target is None else [("x-antiphon-service", target)]
    request = health_pb2.HealthCheckRequest(service=service)
    return int(health_pb2_grpc.HealthStub(channel).Check(request, metadata=metadata, timeout=10).status)


def wait_serving(channel: grpc.Channel, name: str) -> None:
    """Waits until the service is well in Envoy's eyes; the test's own timeout bounds it."""
    while True:
        try:
            if health(channel, SERVICES[name], name) == health_pb2.HealthCheckResponse.SERVING:
                return
        except grpc.RpcError:
            time.sleep(0.1)


def generate(channel: grpc.Channel, seconds: float, prompt: str = "calm piano") -> Any:
    """Starts StreamGenerate and returns the call: an iterator of responses. The request side is closed."""
    config = generator_pb2.GenerationConfig(
        prompts=[generator_pb2.WeightedPrompt(text=prompt)],
        duration=duration_pb2.Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds)),
        seed=1,
    )
    requests = iter([generator_pb2.StreamGenerateRequest(config=config)])
    return generator_pb2_grpc.GeneratorServiceStub(channel).StreamGenerate(requests, timeout=120)


def assert_whole(responses: list[Any], seconds: float, sample_rate_hz: int = 32000) -> None:
    """Asserts that the responses are those of a piece of this length, with nothing lost."""
    kinds = [response.WhichOneof("response") for response in responses]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    chunks = [response.audio for response in responses if response.WhichOneof("response") == "audio"]
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    position = 0
    for chunk in chunks:
        assert chunk.first_sample == position
        position += chunk.sample_count
    assert position == round(seconds * sample_rate_hz)
    assert responses[-1].finished.reason == generator_pb2.GenerationFinished.REASON_COMPLETE


def get(url: str) -> str:
    """The body of an HTTP GET that goes through no proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as reply:
        body: bytes = reply.read()
    return body.decode()
