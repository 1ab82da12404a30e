"""A small server for the client's tests: real gRPC, made-up audio, and misbehaviour on request.

The prompt says what the generator does: "gap", "hang", "busy" and so on; any other text is answered well.
"""

# ruff: noqa: N802 - methods bear the names of the proto
from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from antiphon import pack_codes
from antiphon.v1 import (
    analyzer_pb2,
    analyzer_pb2_grpc,
    audio_pb2,
    codec_pb2,
    codec_pb2_grpc,
    generator_pb2,
    generator_pb2_grpc,
)

RATE, CHANNELS, CHUNK, FRAME = 8000, 2, 800, 160
TINY = audio_pb2.ModelInfo(
    name="tiny",
    kind=audio_pb2.MODEL_KIND_MUSIC,
    is_default=True,
    sample_rate_hz=RATE,
    channel_count=CHANNELS,
    codebook_count=4,
    codebook_size=1024,
    is_trained=True,
    precision="fp32",
    device="cpu",
)
Responses = Iterator[generator_pb2.StreamGenerateResponse]
Response = generator_pb2.StreamGenerateResponse


def tone(first: int, count: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Samples `first` to `first + count` of the only piece the server knows, int16 [count, 2]."""
    index = np.arange(first, first + count)[:, None] * np.array([37, 53])
    samples: np.ndarray[Any, np.dtype[np.int16]] = (index % 40001 - 20000).astype("<i2")
    return samples


def piece_codes(first_frame: int, frames: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Its codes, [4, frames]."""
    return (np.arange(first_frame, first_frame + frames)[None] * 7 + np.arange(4)[:, None] * 100) % 1024


def rich_status(code: int, message: str, *details: Any) -> grpc.Status:
    packed = [any_pb2.Any() for _ in details]
    for wrapper, detail in zip(packed, details, strict=True):
        wrapper.Pack(detail)
    status: grpc.Status = rpc_status.to_status(status_pb2.Status(code=code, message=message, details=packed))
    return status


BUSY = rich_status(
    code_pb2.RESOURCE_EXHAUSTED,
    "queue: 4 requests wait already",
    error_details_pb2.RetryInfo(retry_delay={"seconds": 2, "nanos": 500_000_000}),
    error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="antiphon"),
    error_details_pb2.RequestInfo(request_id="from-the-server"),
)
REFUSED = rich_status(
    code_pb2.INVALID_ARGUMENT,
    "config.duration: -1 s is not above 0",
    error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="config.duration", description="-1 s is not above 0")
        ]
    ),
)


@dataclass
class Generator(generator_pb2_grpc.GeneratorServiceServicer):
    """Streams `tone`, and remembers what it was asked."""

    configs: list[generator_pb2.GenerationConfig] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    time_remaining: list[float | None] = field(default_factory=list)
    controls: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    half_closed: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def _note(self, config: generator_pb2.GenerationConfig, context: Any) -> str:
        self.configs.append(config)
        self.metadata.append(dict(context.invocation_metadata()))
        self.time_remaining.append(context.time_remaining())
        prompt = str(config.prompts[0].text)
        if prompt == "busy":
            context.abort_with_status(BUSY)
        if config.duration.ToSeconds() < 0:
            context.abort_with_status(REFUSED)
        if config.model not in ("", "tiny"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"model: {config.model} is not loaded")
        if prompt == "crash":
            raise RuntimeError("a fault of the server")
        if prompt == "not yet" and len(self.configs) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "upstream connect error")
        return prompt

    def ListModels(self, request: Any, context: Any) -> generator_pb2.GeneratorServiceListModelsResponse:
        return generator_pb2.GeneratorServiceListModelsResponse(models=[TINY])

    def Generate(self, request: generator_pb2.GenerateRequest, context: Any) -> generator_pb2.GenerateResponse:
        self._note(request.config, context)
        started, total = _started(request.config), _total(request.config)
        return generator_pb2.GenerateResponse(
            started=started,
            audio=_data(started.format, 0, total),
            codes=pack_codes(piece_codes(0, total // FRAME), 10) if request.config.include_codes else None,
            finished=_finished(total),
        )

    def GenerateFile(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no files here")

    def StreamGenerate(self, request_iterator: Any, context: Any) -> Responses:
        context.add_callback(self.ended.set)
        config = next(request_iterator).config
        prompt = self._note(config, context)
        threading.Thread(target=self._listen, args=(request_iterator,), daemon=True).start()
        if prompt == "no start":
            yield Response(progress=generator_pb2.GenerationProgress(steps=1))
        started, total = _started(config), _total(config)
        yield Response(started=started)
        made = begin = config.resume.received_samples
        while made < total:
            count = min(CHUNK, total - made)
            if config.include_codes and made // FRAME >= config.resume.codes.frame_count:
                frames = piece_codes(made // FRAME, count // FRAME)
                yield Response(codes=pack_codes(frames, 10, first_frame=made // FRAME))
            number = (made - begin) // CHUNK + (1 if prompt == "gap" and made else 0)
            first = made + (5 if prompt == "hole" and made else 0)
            yield Response(
                audio=audio_pb2.AudioChunk(
                    sequence=number,
                    first_sample=first,
                    sample_count=count + (1 if prompt == "short" else 0),
                    data=_data(started.format, made, count),
                    is_final=made + count == total,
                )
            )
            made += count
            yield Response(progress=generator_pb2.GenerationProgress(steps=made, total_steps=total))
            if prompt == "truncated":
                return
            if prompt == "lost" and not config.HasField("resume"):
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server goes away")
            if prompt == "late failure":
                context.abort(grpc.StatusCode.INTERNAL, "the engine failed")
            if prompt == "hang" and not self._wait_for_stop():
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            if prompt == "hang":
                break
        yield Response(finished=_finished(made, stopped=prompt == "hang"))
        if prompt == "waits for the client":
            self.half_closed.wait(10)

    def _listen(self, requests: Any) -> None:
        try:
            for request in requests:
                self.controls.put(request.control.action)
            self.half_closed.set()
        except Exception:
            # The call is over; grpc has no exception of its own for this.
            return

    def _wait_for_stop(self) -> bool:
        while not self.ended.is_set():
            try:
                if self.controls.get(timeout=0.02) == generator_pb2.GenerationControl.ACTION_STOP:
                    return True
            except queue.Empty:
                continue
        return False


def _total(config: generator_pb2.GenerationConfig) -> int:
    return int(config.duration.ToNanoseconds() * RATE // 10**9)


def _started(config: generator_pb2.GenerationConfig) -> generator_pb2.GenerationStarted:
    effective = generator_pb2.GenerationConfig()
    effective.CopyFrom(config)
    effective.model = "tiny"
    if not config.HasField("seed"):
        effective.seed = 42
    form = audio_pb2.AudioFormat(encoding=config.output_format.encoding, sample_rate_hz=RATE, channel_count=CHANNELS)
    total = _total(config)
    return generator_pb2.GenerationStarted(
        config=effective, format=form, frame_rate_hz=RATE / FRAME, total_samples=total, total_steps=total
    )


def _data(form: audio_pb2.AudioFormat, first: int, count: int) -> bytes:
    samples = tone(first, count)
    if form.encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE:
        return (samples.astype("<f4") / np.float32(32767)).tobytes()
    return samples.tobytes()


def _finished(samples: int, stopped: bool = False) -> generator_pb2.GenerationFinished:
    kinds = generator_pb2.GenerationFinished
    finished = kinds(reason=kinds.REASON_STOPPED if stopped else kinds.REASON_COMPLETE, steps=samples)
    finished.audio_duration.FromNanoseconds(samples * 10**9 // RATE)
    finished.first_audio_time.FromMilliseconds(250)
    return finished


class Codec(codec_pb2_grpc.CodecServiceServicer):
    """Knows one piece: any file becomes its codes, and its codes become `tone`."""

    def ListModels(self, request: Any, context: Any) -> codec_pb2.CodecServiceListModelsResponse:
        return codec_pb2.CodecServiceListModelsResponse(models=[TINY])

    def Encode(self, request: codec_pb2.EncodeRequest, context: Any) -> codec_pb2.EncodeResponse:
        frames = len(request.audio.data)
        return codec_pb2.EncodeResponse(
            model="tiny",
            codes=pack_codes(piece_codes(0, frames)[: request.codebook_count or 4], 10, scales=[0.5]),
            sample_count=frames * FRAME - 3,
            format=audio_pb2.AudioFormat(sample_rate_hz=RATE, channel_count=CHANNELS),
            bandwidth_kbps=request.bandwidth_kbps,
        )

    def Decode(self, request: codec_pb2.DecodeRequest, context: Any) -> codec_pb2.DecodeResponse:
        count = request.sample_count or request.codes.frame_count * FRAME
        form = audio_pb2.AudioFormat(
            encoding=request.output_format.encoding, sample_rate_hz=RATE, channel_count=CHANNELS
        )
        return codec_pb2.DecodeResponse(audio=_data(form, 0, count), format=form, sample_count=count)


class Analyzer(analyzer_pb2_grpc.AnalyzerServiceServicer):
    """Finds everything real."""

    def ListModels(self, request: Any, context: Any) -> analyzer_pb2.AnalyzerServiceListModelsResponse:
        return analyzer_pb2.AnalyzerServiceListModelsResponse(models=[TINY])

    def Analyze(self, request: analyzer_pb2.AnalyzeRequest, context: Any) -> analyzer_pb2.AnalyzeResponse:
        return analyzer_pb2.AnalyzeResponse(
            mpd_score=0.75,
            is_real=request.threshold < 0.75,
            verdict=analyzer_pb2.VERDICT_REAL,
            windows=[analyzer_pb2.WindowResult(mpd_score=0.75, generated_probability=0.25)],
            model=TINY,
        )


class Health(health.HealthServicer):  # type: ignore[misc]
    """The standard servicer; remembers where the edge would have sent each check."""

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[str, str] = {}

    def Check(self, request: Any, context: Any) -> Any:
        self.routes[request.service] = dict(context.invocation_metadata())["x-antiphon-service"]
        return super().Check(request, context)


@dataclass
class Served:
    """A running server."""

    target: str
    server: grpc.Server
    generator: Generator
    health: Health


@contextmanager
def served(*, analyzer: bool = True, codec: Codec | None = None) -> Iterator[Served]:
    """Runs a server on a free port of the loopback."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    generator, checks = Generator(), Health()  # type: ignore[abstract]
    generator_pb2_grpc.add_GeneratorServiceServicer_to_server(generator, server)
    codec_pb2_grpc.add_CodecServiceServicer_to_server(codec or Codec(), server)  # type: ignore[abstract]
    if analyzer:
        analyzer_pb2_grpc.add_AnalyzerServiceServicer_to_server(Analyzer(), server)  # type: ignore[abstract]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    status = health_pb2.HealthCheckResponse
    checks.set("antiphon.v1.GeneratorService", status.SERVING)
    checks.set("antiphon.v1.CodecService", status.SERVING)
    checks.set("antiphon.v1.AnalyzerService", status.SERVING if analyzer else status.NOT_SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Served(f"127.0.0.1:{port}", server, generator, checks)
    finally:
        server.stop(None).wait()
