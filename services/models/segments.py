"""EnCodec 48 kHz: normalised segments that overlap, encoded one by one and joined by a linear overlap-add.

A piece is cut into segments of one second, each beginning 0.99 s after the one before (arXiv 2210.13438, section 3.4).
A segment is divided by its loudness, encoded whole, and its frames follow those of the segment before. Decoded
segments are faded into each other where they overlap, as the public encodec package and transformers do. So a stream
is exact, and lags by a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from services.models.quantizing import quantizer_of
from services.models.seanet import Network
from services.models.sessions import Frames, Session


@dataclass(frozen=True)
class Segments:
    """How a piece is cut. Lengths in samples."""

    length: int
    stride: int
    is_normalising: bool


def segments_of(model: Any) -> Segments | None:
    """Return how a codec cuts its pieces, or None when it does not. Only transformers' layout can say it."""
    from audiocraft.models.encodec import HFEncodecCompressionModel

    config = model.model.config if isinstance(model, HFEncodecCompressionModel) else None
    if config is None or config.chunk_length is None:
        return None
    return Segments(config.chunk_length, config.chunk_stride, bool(config.normalize))


@dataclass
class _Tail:
    """Decoded samples that the next segment may still change, weighted, and their weights."""

    codes: list[torch.Tensor] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    faded: torch.Tensor | None = None


class SegmentedCodec:
    """A codec that works on segments."""

    is_streamable = True

    def __init__(self, model: Any, segments: Segments) -> None:
        inner = model.model
        self._segments = segments
        self.hop = round(model.sample_rate / model.frame_rate)
        self._channels = int(model.channels)
        self._encoder, self._decoder = Network(inner.encoder.layers), Network(inner.decoder.layers)
        self._quantizer = quantizer_of(inner)
        self.segment_frames = -(-segments.length // self.hop)
        self.segment_stride = segments.stride
        self.encode_lookahead = self.encode_start = segments.length
        self.decode_lookahead = self.decode_start = self.segment_frames

    def encoding(self, codebook_count: int) -> Session:
        return Session(torch.zeros(self._channels, 0), codebook_count)

    def decoding(self) -> Session:
        return Session(_Tail())

    @torch.inference_mode()
    def encode_many(
        self, sessions: Sequence[Session], audio: Sequence[torch.Tensor], finals: Sequence[bool]
    ) -> list[Frames]:
        return [self._encode(*each) for each in zip(sessions, audio, finals, strict=True)]

    @torch.inference_mode()
    def decode_many(
        self, sessions: Sequence[Session], frames: Sequence[Frames], finals: Sequence[bool]
    ) -> list[torch.Tensor]:
        return [self._decode(*each) for each in zip(sessions, frames, finals, strict=True)]

    def _encode(self, session: Session, audio: torch.Tensor, final: bool) -> Frames:
        rest = torch.cat([session.state.to(audio.device), audio], dim=1)
        codes, scales = [torch.zeros(session.codebook_count, 0, dtype=torch.long, device=audio.device)], []
        while rest.shape[1] >= self._segments.length or (final and rest.shape[1]):
            segment = rest[:, : self._segments.length]
            if self._segments.is_normalising:
                scale = segment.mean(dim=0).pow(2).mean().sqrt() + 1e-8
                segment = segment / scale
            vectors = self._encoder.run(segment.transpose(0, 1)[None].contiguous())
            codes.append(self._quantizer.encode(vectors[0], session.codebook_count))
            if self._segments.is_normalising:
                scales += [float(scale)] * codes[-1].shape[1]
            rest = rest[:, self._segments.stride :]
        session.state = rest.clone()
        return Frames(torch.cat(codes, dim=1), scales)

    def _decode(self, session: Session, frames: Frames, final: bool) -> torch.Tensor:
        tail: _Tail = session.state
        tail.codes.append(frames.codes)
        tail.scales += frames.scales
        made = []
        waiting = torch.cat(tail.codes, dim=1)
        while waiting.shape[1] >= self.segment_frames or (final and waiting.shape[1]):
            segment = waiting[:, : self.segment_frames]
            count = segment.shape[1]
            samples = self._decoder.run(self._quantizer.decode(segment)[None])[0].transpose(0, 1)
            if self._segments.is_normalising:
                samples = samples * tail.scales[0]
            made.append(self._faded(tail, samples))
            waiting, tail.scales = waiting[:, count:], tail.scales[count:]
        tail.codes = [waiting.clone()]
        if final and tail.faded is not None:
            made.append(tail.faded)
            tail.faded = None
        return torch.cat(made, dim=1) if made else torch.zeros(self._channels, 0, device=waiting.device)

    def _faded(self, tail: _Tail, samples: torch.Tensor) -> torch.Tensor:
        """Join a segment to the one before; return what no later segment covers, keep the rest.

        Weights rise from the start of a segment and fall to its end, linearly; where two segments overlap, each
        sample is their weighted mean, and where one ends early the other stands alone.
        """
        length, stride = self._segments.length, self._segments.stride
        weights = torch.linspace(0, 1, length + 2, dtype=samples.dtype, device=samples.device)[1:-1]
        weights = 0.5 - (weights - 0.5).abs()
        if tail.faded is not None:
            before, overlap = tail.faded, min(tail.faded.shape[1], samples.shape[1])
            falling, rising = weights[stride : stride + overlap], weights[:overlap]
            mixed = before[:, :overlap] * falling + samples[:, :overlap] * rising
            head = mixed / (falling + rising)
            rest = samples if samples.shape[1] > overlap else before
            samples = torch.cat([head, rest[:, overlap:]], dim=1)
        tail.faded = samples[:, stride:].clone()
        return samples[:, :stride]
