"""What the analyzer's messages ask for, checked, as plain values."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from antiphon.v1 import analyzer_pb2, audio_pb2
from services.models.discriminators import AnalyzerInfo
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound

_DEFAULT_THRESHOLD = 0.5
_MIN_RATE_HZ, _MAX_RATE_HZ = 4_000, 384_000
_PEAK = 65_536.0
_TYPES: dict[int, np.dtype[Any]] = {
    audio_pb2.AUDIO_ENCODING_PCM_S16LE: np.dtype("<i2"),
    audio_pb2.AUDIO_ENCODING_PCM_F32LE: np.dtype("<f4"),
}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One call of Analyze."""

    audio: bytes
    threshold: float
    include_feature_maps: bool
    include_images: bool


def analysis(request: analyzer_pb2.AnalyzeRequest, model: AnalyzerInfo) -> Analysis:
    """Check an AnalyzeRequest. Raises InvalidArgument, NotFound."""
    _check_model(request.model, model, "model")
    threshold = _threshold(request, "threshold")
    return Analysis(request.audio.data, threshold, request.include_feature_maps, request.include_images)


def stream_threshold(config: analyzer_pb2.StreamAnalyzeConfig, model: AnalyzerInfo) -> float:
    """Check a stream's config, its format aside; return its threshold. Raises InvalidArgument, NotFound."""
    _check_model(config.model, model, "config.model")
    return _threshold(config, "config.threshold")


def _check_model(name: str, model: AnalyzerInfo, field: str) -> None:
    if name not in ("", model.name):
        raise NotFound(field, f"{name!r} is not loaded; loaded: {model.name}")


def _threshold(request: analyzer_pb2.AnalyzeRequest | analyzer_pb2.StreamAnalyzeConfig, field: str) -> float:
    threshold = request.threshold if request.HasField("threshold") else _DEFAULT_THRESHOLD
    # A NaN is not between them.
    if not 0 <= threshold <= 1:
        raise InvalidArgument(field, f"{threshold:g} is not 0 to 1")
    return threshold


class ChunkReader:
    """The audio of one stream: checks that each chunk is the next one and what it says it is.

    Raises InvalidArgument for a format that can't be read; 0 Hz and 0 channels stand for the model's own.
    """

    def __init__(self, form: audio_pb2.AudioFormat, model: AnalyzerInfo, max_seconds: float) -> None:
        self.rate_hz = form.sample_rate_hz or model.sample_rate_hz
        self.channel_count = form.channel_count or model.channel_count
        if form.encoding not in _TYPES:
            raise InvalidArgument("config.format.encoding", "must be PCM_S16LE or PCM_F32LE")
        if not _MIN_RATE_HZ <= self.rate_hz <= _MAX_RATE_HZ:
            raise InvalidArgument(
                "config.format.sample_rate_hz", f"{self.rate_hz} is not {_MIN_RATE_HZ} to {_MAX_RATE_HZ}"
            )
        if not 1 <= self.channel_count <= 2:
            raise InvalidArgument("config.format.channel_count", f"{self.channel_count} is not 1 or 2")
        self._type = _TYPES[form.encoding]
        self._max_samples, self._max_seconds = int(max_seconds * self.rate_hz), max_seconds
        self._chunks = self._samples = 0
        self._is_final = False

    def read(self, chunk: audio_pb2.AudioChunk) -> torch.Tensor:
        """Return float32 ``[C, n]``. Raises InvalidArgument, FailedPrecondition."""
        if self._is_final:
            raise FailedPrecondition("audio", "nothing may follow the chunk that is_final")
        for field, given, due in (
            ("sequence", chunk.sequence, self._chunks),
            ("first_sample", chunk.first_sample, self._samples),
        ):
            if given != due:
                raise InvalidArgument(f"audio.{field}", f"{given} came, {due} was due")
        expected = chunk.sample_count * self._type.itemsize * self.channel_count
        if len(chunk.data) != expected:
            raise InvalidArgument("audio.data", f"{len(chunk.data)} bytes, {expected} expected")
        self._chunks += 1
        self._samples += chunk.sample_count
        self._is_final = chunk.is_final
        if self._samples > self._max_samples:
            raise InvalidArgument("audio", f"the stream is longer than {self._max_seconds:g} s")
        values = np.frombuffer(chunk.data, self._type).reshape(-1, self.channel_count).T
        samples = np.ascontiguousarray(values, dtype=np.float32)
        if self._type.kind == "i":
            samples /= 32768.0
        # A NaN is not below the peak either.
        elif samples.size and not np.abs(samples).max() <= _PEAK:
            raise InvalidArgument("audio.data", f"holds samples that are not finite or pass {_PEAK:g}")
        return torch.from_numpy(samples)
