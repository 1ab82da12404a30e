"""Runs the codecs: AudioCraft's `encode` and `decode`, one call at a time, in a thread of their own."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.codec.requests import CodecFacts, Decoding, Encoding
from services.models import loader
from services.models.audio import AudioError, AudioLimits, convert, read_audio
from services.models.worker import Worker
from services.runtime.metrics import METRICS, Metrics

_MAX_WAITING = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """What Encode made."""

    codes: NDArray[np.int32]
    """``[K, T]``."""
    scales: list[float]
    """One a frame, from models that normalise their input; else empty."""
    sample_count: int


class CodecEngine:
    """The loaded codecs. Nothing that a call does changes a model, so no call can disturb another."""

    def __init__(
        self,
        names: Sequence[str],
        device: str,
        threads: int,
        limits: AudioLimits,
        metrics: Metrics = METRICS,
    ) -> None:
        self.limits = limits
        self.facts: Mapping[str, CodecFacts] = {}
        """By name, the default first; empty until `load` is done."""
        self.infos: Mapping[str, loader.ModelInfo] = {}
        self._names = names
        self._device = device
        self._threads = threads
        self._models: dict[str, Any] = {}
        self._waiting = metrics.requests_waiting
        self._worker = Worker("codec", _MAX_WAITING)

    def load(self) -> None:
        """Load and warm every model. Raises `CheckpointError`."""
        if self._threads:
            torch.set_num_threads(self._threads)
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        facts, infos = {}, {}
        for name in self._names:
            loaded = loader.load_codec(name, self._device)
            self._models[name] = loaded.model
            facts[name] = _facts(loaded, self.limits)
            infos[name] = loaded.info
            self._warm(facts[name])
        self.facts, self.infos = facts, infos

    async def encode(self, request: Encoding) -> Encoded:
        """Encode a file. Raises `AudioError`, `WorkerFull`."""
        facts = self.facts[request.model]
        gauge = self._waiting.labels(request.model)
        return await self._worker.run(lambda stopped: self._encode(request, facts, stopped), gauge)

    async def decode(self, request: Decoding) -> torch.Tensor:
        """Decode codes to float32 ``[C, T]`` on the CPU. Raises `WorkerFull`."""
        gauge = self._waiting.labels(request.model)
        return await self._worker.run(lambda _: self._decode(request), gauge)

    def close(self) -> None:
        """Wait for the running call and free the models."""
        self._worker.close()
        self._models.clear()

    @torch.inference_mode()
    def _encode(self, request: Encoding, facts: CodecFacts, stopped: threading.Event) -> Encoded:
        audio, rate = read_audio(request.audio, self.limits)
        if stopped.is_set():
            # Nobody hears the answer.
            return Encoded(np.zeros((request.codebook_count, 0), np.int32), [], 0)
        audio = convert(audio, rate, facts.sample_rate_hz, facts.channel_count)
        if not audio.shape[1]:
            raise AudioError(f"is shorter than one sample at {facts.sample_rate_hz} Hz")
        codes, scale = self._models[request.model].encode(audio[None].to(self._device))
        # A residual quantiser's first codebooks are the same however many follow: cutting them off is exact.
        codes = codes[0, : request.codebook_count].cpu().numpy().astype(np.int32)
        scales = [] if scale is None else [float(scale)] * codes.shape[1]
        return Encoded(codes, scales, audio.shape[1])

    @torch.inference_mode()
    def _decode(self, request: Decoding) -> torch.Tensor:
        codes = torch.from_numpy(request.codes).long()[None].to(self._device)
        scale = None if request.scale is None else torch.tensor([[request.scale]], device=self._device)
        audio: torch.Tensor = self._models[request.model].decode(codes, scale)[0].float().cpu()
        if not bool(audio.isfinite().all()):
            raise RuntimeError(f"{request.model}: the decoder made samples that are not finite")
        return audio[:, : request.sample_count]

    @torch.inference_mode()
    def _warm(self, facts: CodecFacts) -> None:
        model = self._models[facts.name]
        silence = torch.zeros(1, facts.channel_count, facts.sample_rate_hz, device=self._device)
        codes, scale = model.encode(silence)
        model.decode(codes, scale)


def _facts(loaded: loader.LoadedCodec, limits: AudioLimits) -> CodecFacts:
    model, info = loaded.model, loaded.info
    usual = int(model.num_codebooks)
    if usual != info.codebook_count:
        # Once, before the first call: every call encodes with all codebooks.
        model.set_num_codebooks(info.codebook_count)
    config = getattr(getattr(model, "model", None), "config", None)
    return CodecFacts(
        name=info.name,
        sample_rate_hz=info.sample_rate_hz,
        channel_count=info.channel_count,
        frame_rate_hz=info.frame_rate_hz,
        codebook_count=info.codebook_count,
        codebook_size=info.codebook_size,
        usual_codebook_count=usual,
        is_normalising=bool(getattr(model, "renormalize", False) or getattr(config, "normalize", False)),
        max_seconds=limits.max_seconds,
    )
