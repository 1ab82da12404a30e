"""Hostile calls over gRPC. Each attack returns how often which code came, and asserts what it alone can know."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, Phase, given, seed, settings

from antiphon.v1 import analyzer_pb2, audio_pb2, codec_pb2, generator_pb2
from services.stack.stack import Stack
from tests.abuse import inputs

Codes = Counter[str]
Attack = TypeVar("Attack", bound=Callable[..., None])
GENERATE = "/antiphon.v1.GeneratorService/StreamGenerate"
SERVED_SECONDS = 120.0
"""How long a good caller may wait until it has been served: the slots and the queue before it may be full."""
SECONDS = 3.0
"""How long a call may take before it is given up: some of what is random asks for a long piece."""

# A caller's own fault, a refusal, or nothing wrong at all. The others would be ours.
FINE = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED", "CANCELLED", "UNAUTHENTICATED", "PERMISSION_DENIED",
}  # fmt: skip


def bounded(count: int, start: int = 1) -> Callable[[Attack], Attack]:
    """Settings of hypothesis for so many examples, the same each time, without its own idea of how long one takes."""

    def decorate(test: Attack) -> Attack:
        phases = (Phase.generate,)
        checks = list(HealthCheck)
        chosen = settings(max_examples=count, deadline=None, database=None, phases=phases, suppress_health_check=checks)
        return seed(start)(chosen(test))

    return decorate


def malformed(stack: Stack, count: int) -> Codes:
    """Requests of every method with any values, cut, flipped, or no messages at all."""
    codes: Codes = Counter()
    with stack.channel() as channel:

        @bounded(count)
        @given(inputs.calls())
        def attack(call: tuple[MethodDescriptor, list[bytes], list[tuple[str, str]]]) -> None:
            code = send(channel, *call)
            # A made-up handle of a stream leads to no replica.
            wanted = call[0].name == "ControlGeneration" and code == "UNAVAILABLE"
            codes["NOT_FOUND" if wanted else code] += 1

        attack()
    return codes


def fuzzed(stack: Stack, folder: Path) -> Codes:
    """What atheris found worth keeping, to the methods whose readers it was made for."""
    paths = (
        "GeneratorService/GenerateFile",
        "GeneratorService/GenerateBatch",
        "CodecService/Encode",
        "CodecService/Decode",
    )
    codes: Codes = Counter()
    with stack.channel() as channel:
        for file in sorted(folder.iterdir()):
            for path in paths:
                method = next(one for one in inputs.METHODS if one.full_name == f"antiphon.v1.{path.replace('/', '.')}")
                codes[send(channel, method, [file.read_bytes()[1:]], [])] += 1
    return codes


def send(
    channel: grpc.Channel, method: MethodDescriptor, requests: list[bytes], metadata: list[tuple[str, str]]
) -> str:
    """Makes a call of raw bytes; at most its first reply is waited for. Returns the name of its code."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    stub: Any = channel.stream_stream(path)
    call = stub(iter(requests), metadata=metadata, timeout=SECONDS)
    try:
        next(call, None)
    except grpc.RpcError as error:
        return str(error.code().name)
    finally:
        call.cancel()
    return "OK"


def model_names(stack: Stack) -> Codes:
    """Paths and addresses where the name of a model belongs."""
    codes: Codes = Counter()
    with stack.channel() as channel:
        for name in (*inputs.PATHS, inputs.CONTROLS, "tiny" * 5000):
            config = generator_pb2.GenerationConfig(
                model=name, prompts=[generator_pb2.WeightedPrompt(text="a")], duration={"seconds": 1}
            )
            for path, request in {
                GENERATE: generator_pb2.StreamGenerateRequest(config=config),
                "/antiphon.v1.CodecService/Encode": codec_pb2.EncodeRequest(model=name),
                "/antiphon.v1.AnalyzerService/Analyze": analyzer_pb2.AnalyzeRequest(model=name),
            }.items():
                stub: Any = channel.stream_stream(path)
                call = stub(iter([request.SerializeToString()]), timeout=SECONDS)
                try:
                    next(call)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[error.code().name] += 1
                    # What is told is what the caller sent and what is loaded, never what is on the disk.
                    told = str(error.details())
                    assert "root:" not in told and "No such file" not in told
    assert "OK" not in codes
    return codes


def prompts(stack: Stack) -> Codes:
    """Prompts of control characters, of what is not UTF-8, and of a megabyte."""
    config = generator_pb2.GenerationConfig(duration={"nanos": 100_000_000}, seed=1)
    texts = [
        inputs.CONTROLS,
        "\0",
        "\n" * 500,
        "\u202e" * 300,
        "a\r\nx-forged: 1",
        "\x1b[2J\x1b]0;owned\x07",
        "x" * 2**20,
    ]
    requests = []
    for text in texts:
        asked = generator_pb2.StreamGenerateRequest()
        asked.config.CopyFrom(config)
        asked.config.prompts.add(text=text)
        requests.append(asked.SerializeToString())
    good = generator_pb2.StreamGenerateRequest(config=config)
    good.config.prompts.add(text="abcd")
    requests.append(good.SerializeToString().replace(b"abcd", b"\xff\xfe\xc0\x80"))
    method = next(one for one in inputs.METHODS if one.name == "StreamGenerate")
    with stack.channel() as channel:
        codes = Counter(send(channel, method, [request], []) for request in requests)
    log = stack.log("generator")
    assert "owned" not in log and "x-forged" not in log
    return codes


def files(stack: Stack, folder: Path) -> Codes:
    """Files that grow, files that lie, and pickles, to whatever reads files."""
    trap = folder / "loaded"
    boastful = inputs.boastful_wav(60_000)
    hostile = [inputs.silence(1200), inputs.silence(1200, "OGG"), boastful, inputs.pickled(str(trap))]
    hostile += [gzip.compress(bytes(10**6)), b"RIFF" + b"\xff" * 60, b"#!/bin/sh\ntouch " + str(trap).encode()]
    codes: Codes = Counter()
    with stack.channel() as channel:
        for data in hostile:
            for name, request in {
                "Encode": codec_pb2.EncodeRequest(audio={"data": data}),
                "Analyze": analyzer_pb2.AnalyzeRequest(audio={"data": data}),
            }.items():
                method = next(one for one in inputs.METHODS if one.name == name)
                code = send(channel, method, [request.SerializeToString()], [])
                # The one sample that a boastful file does hold may be read.
                assert code != "OK" or data is boastful, (name, data[:20])
                codes[code] += 1
    assert not trap.exists()
    return codes


def bombs(stack: Stack) -> Codes:
    """Messages that are small on the wire and, unpacked, larger than any may be; and one that is large on the wire."""
    codes: Codes = Counter()
    options = (("grpc.max_send_message_length", -1),)
    with stack.channel(*options) as channel:
        for compression, size in ((grpc.Compression.Gzip, 200 << 20), (grpc.Compression.NoCompression, 80 << 20)):
            stub: Any = channel.unary_unary("/antiphon.v1.CodecService/Encode")
            try:
                stub(bytes(size), timeout=60, compression=compression)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    assert codes == {"RESOURCE_EXHAUSTED": 2}, codes
    return codes


def headers(stack: Stack) -> Codes:
    """Headers larger and more than Envoy takes: over HTTP/2 it resets the stream, or answers 431."""
    codes: Codes = Counter()
    for metadata in ((("x-large", "a" * 60_000),), tuple((f"x-{number}", "a") for number in range(300))):
        # gRPC's own client closes its connection over these: each has one of its own.
        with stack.channel() as channel, pytest.raises(grpc.RpcError) as caught:
            stub: Any = channel.unary_unary("/antiphon.v1.GeneratorService/ListModels")
            stub(b"", metadata=metadata, timeout=SECONDS)
        # gRPC's client calls both INTERNAL.
        told = str(caught.value.details())
        codes["431" if "431" in told else "reset" if "RST_STREAM" in told else caught.value.code().name] += 1
    return codes


def slow_readers(stack: Stack, count: int, seconds: float) -> Codes:
    """Streams whose callers read the beginning and no more, while another must be served."""
    # Without these gRPC's client itself reads on, and keeps megabytes.
    small = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384))
    with stack.channel(*small) as channel:
        config = generator_pb2.GenerationConfig(prompts=[{"text": "a"}], duration={"seconds": 30}, seed=1)
        request = generator_pb2.StreamGenerateRequest(config=config).SerializeToString()
        stub: Any = channel.stream_stream(GENERATE)
        calls = [stub(iter([request])) for _ in range(count)]
        codes: Codes = Counter()
        for call in calls[: count // 2]:
            try:
                next(call)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
        time.sleep(seconds)
        serve(stack)
        for call in calls:
            call.cancel()
    return codes


def idle(stack: Stack, count: int, seconds: float) -> Codes:
    """Streams that never say what they want, and streams that never grant a sample."""

    def never(first: list[bytes]) -> Iterator[bytes]:
        yield from first
        time.sleep(seconds)

    config = generator_pb2.GenerationConfig(prompts=[{"text": "a"}], duration={"seconds": 5}, seed=1)
    config.pacing.initial_credit.SetInParent()
    first = generator_pb2.StreamGenerateRequest(config=config).SerializeToString()
    codes: Codes = Counter()
    with stack.channel() as channel:
        stub: Any = channel.stream_stream(GENERATE)
        calls = [stub(never([first] if number % 2 else []), timeout=seconds) for number in range(count)]
        serve(stack)
        for call in calls:
            try:
                codes["OK"] += len([*call]) > 0
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    return codes


def serve(stack: Stack, seconds: float = 0.5) -> bytes:
    """Makes a short piece as anybody would; returns its audio. Raises RpcError when the stack does not."""
    config = generator_pb2.GenerationConfig(
        prompts=[{"text": "a happy song"}], duration={"nanos": round(seconds * 1e9)}, seed=11
    )
    config.output_format.encoding = audio_pb2.AUDIO_ENCODING_PCM_S16LE
    request = generator_pb2.StreamGenerateRequest(config=config).SerializeToString()
    with stack.channel() as channel:
        stub: Any = channel.stream_stream(
            GENERATE, response_deserializer=generator_pb2.StreamGenerateResponse.FromString
        )
        replies = stub(iter([request]), timeout=SERVED_SECONDS, metadata=key(stack))
        return b"".join(reply.audio.data for reply in replies)


def key(stack: Stack) -> tuple[tuple[str, str], ...]:
    """What a caller of a secured stack sends."""
    return () if stack.secured is None else (("x-api-key", stack.secured.credentials.api_key),)
