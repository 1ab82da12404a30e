"""CompressCodes and ExpandCodes: the part of an .ecdc file that needs a language model."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from antiphon.codes import pack_codes, unpack_codes
from antiphon.ecdc import PUBLIC_FORMS, EcdcForm
from antiphon.v1 import audio_pb2, codec_pb2
from services.codec.requests import CodecFacts
from services.models.entropy import EntropyCoder, load_entropy_coder
from services.models.worker import Worker, WorkerFull
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.runtime.metrics import METRICS, Metrics

_SCALE = struct.Struct("!f")
_MAX_WAITING = 16
_Result = TypeVar("_Result")


class Compression:
    """The language models of the loaded codecs, and a thread of their own: they are slow, the codecs must not wait."""

    def __init__(self, metrics: Metrics = METRICS) -> None:
        self._facts: Mapping[str, CodecFacts] = {}
        self._coders: dict[str, EntropyCoder] = {}
        self._waiting = metrics.requests_waiting
        self._worker = Worker("compression", _MAX_WAITING)

    def load(self, facts: Mapping[str, CodecFacts]) -> None:
        """Load what lies in the codecs' folders. Raises `CheckpointError`."""
        self._facts = facts
        for name, codec in facts.items():
            coder = load_entropy_coder(Path(name), codec.frame_rate_hz)
            if coder is not None:
                self._coders[name] = coder

    async def compress(self, request: codec_pb2.CompressCodesRequest) -> codec_pb2.CompressCodesResponse:
        """Answer CompressCodes. Raises the errors that its fields name."""
        codec, coder = self._find(request.model)
        frames = request.codes
        self._check_count("codes.codebook_count", frames.codebook_count, codec, coder)
        form, segments = _segments(codec, request.sample_count)
        expected = sum(map(form.frames, segments))
        if frames.frame_count != expected:
            raise InvalidArgument("codes.frame_count", f"{frames.frame_count}, {expected} are for the sample_count")
        if frames.bits_per_code != codec.bits_per_code:
            raise InvalidArgument("codes.bits_per_code", f"{frames.bits_per_code} is not {codec.bits_per_code}")
        if len(frames.scales) != (frames.frame_count if form.is_normalising else 0):
            raise InvalidArgument("codes.scales", f"{len(frames.scales)} for {frames.frame_count} frames")
        try:
            codes = unpack_codes(frames)
        except ValueError as error:
            raise InvalidArgument("codes.data", str(error).removeprefix("codes: ")) from error
        if codes.max() >= codec.codebook_size:
            raise InvalidArgument("codes.data", f"holds the code {codes.max()}, of {codec.codebook_size}")

        def job(stopped: threading.Event) -> bytes:
            parts, first = [], 0
            for samples in segments:
                count = form.frames(samples)
                if form.is_normalising:
                    parts.append(_SCALE.pack(frames.scales[first]))
                segment = codes[:, first : first + count]
                surplus = form.frames_to_store(samples) - count
                parts.append(coder.compress(np.pad(segment, ((0, 0), (0, surplus)), mode="edge"), stopped))
                first += count
            return b"".join(parts)

        return codec_pb2.CompressCodesResponse(model=codec.name, data=await self._run(codec, job))

    async def expand(self, request: codec_pb2.ExpandCodesRequest) -> codec_pb2.ExpandCodesResponse:
        """Answer ExpandCodes. Raises the errors that its fields name."""
        codec, coder = self._find(request.model)
        self._check_count("codebook_count", request.codebook_count, codec, coder)
        form, segments = _segments(codec, request.sample_count)

        def job(stopped: threading.Event) -> tuple[NDArray[np.int32], list[float]]:
            data = io.BytesIO(request.data)
            parts, scales = [], []
            for samples in segments:
                count = form.frames(samples)
                if form.is_normalising:
                    packed = data.read(_SCALE.size)
                    if len(packed) < _SCALE.size:
                        raise ValueError("truncated")
                    scales += list(_SCALE.unpack(packed)) * count
                parts.append(coder.expand(data, request.codebook_count, count, stopped))
            return np.concatenate(parts, axis=1), scales

        try:
            codes, scales = await self._run(codec, job)
        except ValueError as error:
            raise InvalidArgument("data", str(error)) from error
        return codec_pb2.ExpandCodesResponse(
            model=codec.name,
            codes=pack_codes(codes, codec.bits_per_code, scales=scales),
            sample_count=request.sample_count,
            format=audio_pb2.AudioFormat(sample_rate_hz=codec.sample_rate_hz, channel_count=codec.channel_count),
            bandwidth_kbps=codec.codebook_kbps * request.codebook_count,
        )

    def close(self) -> None:
        """Wait for the running call and free the models."""
        self._worker.close()
        self._coders.clear()

    def _find(self, name: str) -> tuple[CodecFacts, EntropyCoder]:
        name = name or next(iter(self._facts), "")
        if name not in self._facts:
            raise NotFound("model", f"{name!r} is not loaded; loaded: {', '.join(self._facts)}")
        if name not in self._coders:
            raise FailedPrecondition(
                "model", f"{name} has no language model: put encodec_lm_*.th into the folder of its checkpoint"
            )
        return self._facts[name], self._coders[name]

    def _check_count(self, field: str, count: int, codec: CodecFacts, coder: EntropyCoder) -> None:
        most = min(codec.codebook_count, coder.codebook_count)
        if not 1 <= count <= most:
            raise InvalidArgument(field, f"{count} is not 1 to {most}")

    async def _run(self, codec: CodecFacts, job: Callable[[threading.Event], _Result]) -> _Result:
        try:
            return await self._worker.run(job, self._waiting.labels(codec.name))
        except WorkerFull as error:
            raise ResourceExhausted("too many calls wait for a language model", 5.0) from error


def _segments(codec: CodecFacts, sample_count: int) -> tuple[EcdcForm, list[int]]:
    most = int(codec.max_seconds * codec.sample_rate_hz)
    if not 1 <= sample_count <= most:
        raise InvalidArgument("sample_count", f"{sample_count} is not 1 to {most}")
    form = PUBLIC_FORMS["encodec_48khz"]
    if not codec.is_normalising:
        form = EcdcForm(codec.sample_rate_hz, codec.channel_count, codec.frame_rate_hz, codec.bits_per_code)
    return form, form.segments(sample_count)
