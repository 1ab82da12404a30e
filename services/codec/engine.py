"""Runs the codecs: whole pieces on one thread, the pieces of streams together on another."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from antiphon.v1 import codec_pb2
from services.codec.requests import CodecFacts, Decoding, Encoding
from services.models import loader
from services.models.audio import AudioError, AudioLimits, convert, read_audio
from services.models.batching import Batcher
from services.models.codecs import Codec, Frames, Session, codec_of
from services.models.diffusion import Diffusion, Stopped, load_diffusions
from services.models.worker import Worker
from services.runtime.metrics import METRICS, Metrics

_MAX_WAITING = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """What encoding made."""

    codes: NDArray[np.int32]
    """``[K, T]``."""
    scales: list[float]
    """One a frame, from models that normalise their input; else empty."""
    sample_count: int


@dataclasses.dataclass(frozen=True)
class _Model:
    codec: Codec
    diffusions: dict[int, Diffusion]


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
        self._models: dict[str, _Model] = {}
        self._waiting = metrics.requests_waiting
        self._worker = Worker("codec", _MAX_WAITING)
        self._batcher = Batcher("codec-streams", self._advance)

    def load(self) -> None:
        """Load and warm every model. Raises `CheckpointError`, `UnsupportedCodec`."""
        if self._threads:
            torch.set_num_threads(self._threads)
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        facts, infos = {}, {}
        for name in self._names:
            loaded = loader.load_codec(name, self._device)
            diffusions = {
                diffusion.codebook_count: diffusion for diffusion in load_diffusions(name, loaded.model, self._device)
            }
            usual = int(loaded.model.num_codebooks)
            codec = codec_of(loaded.model)
            self._models[name] = _Model(codec, diffusions)
            facts[name] = _facts(loaded, codec, usual, frozenset(diffusions), self.limits)
            infos[name] = loaded.info
            self._warm(facts[name])
        self.facts, self.infos = facts, infos

    def codec(self, name: str) -> Codec:
        """Return a loaded codec."""
        return self._models[name].codec

    async def encode(self, request: Encoding) -> Encoded:
        """Encode a file. Raises `AudioError`, `WorkerFull`."""
        facts = self.facts[request.model]
        gauge = self._waiting.labels(request.model)
        return await self._worker.run(lambda stopped: self._encode(request, facts, stopped), gauge)

    async def decode(self, request: Decoding) -> torch.Tensor:
        """Decode codes to float32 ``[C, T]`` on the CPU. Raises `WorkerFull`."""
        gauge = self._waiting.labels(request.model)
        return await self._worker.run(lambda stopped: self._decode(request, stopped), gauge)

    async def push_audio(self, model: str, session: Session, audio: torch.Tensor, final: bool) -> Frames:
        """Give a stream its next samples ``[C, n]``; return the frames that they settle, on the CPU."""
        frames: Frames = await self._batcher.submit((model, "encode"), (session, audio, final))
        return frames

    async def push_codes(self, model: str, session: Session, frames: Frames, final: bool) -> torch.Tensor:
        """Give a stream its next frames; return the samples float32 ``[C, m]`` that they settle, on the CPU."""
        audio: torch.Tensor = await self._batcher.submit((model, "decode"), (session, frames, final))
        return audio

    def close(self) -> None:
        """Wait for the running calls and free the models."""
        self._worker.close()
        self._batcher.close()
        self._models.clear()

    def _advance(self, kind: tuple[str, str], pieces: Sequence[tuple[Session, Any, bool]]) -> list[Any]:
        model, way = kind
        codec = self._models[model].codec
        sessions, finals = [piece[0] for piece in pieces], [piece[2] for piece in pieces]
        if way == "encode":
            audio = [piece[1].to(self._device) for piece in pieces]
            return [Frames(frames.codes.cpu(), frames.scales) for frames in codec.encode_many(sessions, audio, finals)]
        given = [Frames(piece[1].codes.to(self._device), piece[1].scales) for piece in pieces]
        return [samples.float().cpu() for samples in codec.decode_many(sessions, given, finals)]

    @torch.inference_mode()
    def _encode(self, request: Encoding, facts: CodecFacts, stopped: threading.Event) -> Encoded:
        nothing = Encoded(np.zeros((request.codebook_count, 0), np.int32), [], 0)
        audio, rate = read_audio(request.audio, self.limits)
        audio = convert(audio, rate, facts.sample_rate_hz, facts.channel_count)
        if not audio.shape[1]:
            raise AudioError(f"is shorter than one sample at {facts.sample_rate_hz} Hz")
        codec = self._models[request.model].codec
        session, parts = codec.encoding(request.codebook_count), []
        # By the second: what is in the caches stays there, and a call that nobody waits for ends soon.
        blocks = torch.split(audio.to(self._device), facts.sample_rate_hz, dim=1)
        for index, block in enumerate(blocks):
            if stopped.is_set():
                return nothing
            parts += codec.encode_many([session], [block], [index == len(blocks) - 1])
        codes = torch.cat([part.codes for part in parts], dim=1).cpu().numpy().astype(np.int32)
        return Encoded(codes, [scale for part in parts for scale in part.scales], audio.shape[1])

    @torch.inference_mode()
    def _decode(self, request: Decoding, stopped: threading.Event) -> torch.Tensor:
        codes = torch.from_numpy(request.codes).long().to(self._device)
        model = self._models[request.model]
        if request.decoder == codec_pb2.DECODER_MULTI_BAND_DIFFUSION:
            diffusion = model.diffusions.get(codes.shape[0]) or model.diffusions[0]
            try:
                audio = diffusion.decode(codes, request.seed, stopped)
            except Stopped:
                audio = torch.zeros(1, 0)
        else:
            audio = _decoded(model.codec, codes, request.scales, stopped)
        audio = audio.float().cpu()
        if not bool(audio.isfinite().all()):
            raise RuntimeError(f"{request.model}: the decoder made samples that are not finite")
        return audio[:, : request.sample_count]

    @torch.inference_mode()
    def _warm(self, facts: CodecFacts) -> None:
        codec = self._models[facts.name].codec
        silence = torch.zeros(facts.channel_count, facts.sample_rate_hz // 2, device=self._device)
        (frames,) = codec.encode_many([codec.encoding(facts.codebook_count)], [silence], [True])
        codec.decode_many([codec.decoding()], [frames], [True])


def _decoded(codec: Codec, codes: torch.Tensor, scales: list[float], stopped: threading.Event) -> torch.Tensor:
    """Decode about a second at a time."""
    session, parts, step = codec.decoding(), [], codec.segment_frames or 64
    for begin in range(0, codes.shape[1], step):
        if stopped.is_set():
            break
        end = begin + step
        frames = Frames(codes[:, begin:end], scales[begin:end])
        parts += codec.decode_many([session], [frames], [end >= codes.shape[1]])
    return torch.cat([part for part in parts if part.shape[1]] or [torch.zeros(1, 0)], dim=1)


def _facts(
    loaded: loader.LoadedCodec, codec: Codec, usual: int, diffusions: frozenset[int], limits: AudioLimits
) -> CodecFacts:
    model, info = loaded.model, loaded.info
    is_stereo = hasattr(model, "get_left_right_codes")
    if not is_stereo and usual != info.codebook_count:
        # Once, before the first call: a model that runs whole encodes with all codebooks.
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
        codebook_step=2 if is_stereo else 1,
        is_streamable=codec.is_streamable,
        segment_frames=codec.segment_frames,
        segment_stride=codec.segment_stride,
        diffusions=diffusions,
    )
