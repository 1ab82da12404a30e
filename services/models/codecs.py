"""The codecs as they are served: whole pieces and streams, one interface for all kinds.

    codec = codec_of(loaded.model)
    session = codec.encoding(codebook_count=8)
    for block in blocks:
        frames = codec.encode_many([session], [block], [False])[0]
    frames = codec.encode_many([session], [no_samples], [True])[0]

A session is one stream's state and belongs to one piece. Nothing a session does changes the codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional

from services.models.layers import UnsupportedCodec
from services.models.segments import SegmentedCodec, segments_of
from services.models.sessions import Frames, Session
from services.models.streaming import DecoderState, EncoderState, StreamingDecoder, StreamingEncoder

__all__ = ["Codec", "Frames", "Session", "UnsupportedCodec", "codec_of"]


class Codec(Protocol):
    """A codec that runs sessions. Lengths of time are in samples, for encoding, or frames, for decoding."""

    hop: int
    is_streamable: bool
    segment_frames: int
    segment_stride: int
    encode_lookahead: int
    encode_start: int
    decode_lookahead: int
    decode_start: int

    def encoding(self, codebook_count: int) -> Session:
        """Begin to encode a piece."""

    def decoding(self) -> Session:
        """Begin to decode a piece."""

    def encode_many(
        self, sessions: Sequence[Session], audio: Sequence[torch.Tensor], finals: Sequence[bool]
    ) -> list[Frames]:
        """Give each session its next samples ``[C, n]``, return the frames that are settled; all of them when final."""

    def decode_many(
        self, sessions: Sequence[Session], frames: Sequence[Frames], finals: Sequence[bool]
    ) -> list[torch.Tensor]:
        """Give each session its next frames, return the samples ``[C, m]`` that are settled."""


def codec_of(model: Any) -> Codec:
    """Return the codec that runs AudioCraft's ``CompressionModel``.

    Raises:
        UnsupportedCodec: a part of it is of a kind that is not known.
    """
    from audiocraft.models.encodec import InterleaveStereoCompressionModel

    if isinstance(model, InterleaveStereoCompressionModel):
        if model.per_timestep:
            raise UnsupportedCodec("codec: its channels take turns in time")
        return StereoCodec(StreamingCodec(model.model))
    segments = segments_of(model)
    if segments is not None:
        return SegmentedCodec(model, segments)
    try:
        return StreamingCodec(model)
    except UnsupportedCodec:
        return WholeCodec(model)


class StreamingCodec:
    """An EnCodec without normalisation: exact in pieces of any size."""

    is_streamable, segment_frames, segment_stride = True, 0, 0

    def __init__(self, model: Any) -> None:
        self._encoder, self._decoder = StreamingEncoder(model), StreamingDecoder(model)
        self.hop = self._encoder.hop
        self.encode_lookahead, self.encode_start = self._encoder.lookahead_samples, self._encoder.start_samples
        self.decode_lookahead, self.decode_start = self._decoder.lookahead_frames, self._decoder.start_frames

    def encoding(self, codebook_count: int) -> Session:
        return Session(EncoderState(), codebook_count)

    def decoding(self) -> Session:
        return Session(DecoderState())

    def encode_many(
        self, sessions: Sequence[Session], audio: Sequence[torch.Tensor], finals: Sequence[bool]
    ) -> list[Frames]:
        states, counts = [session.state for session in sessions], [session.codebook_count for session in sessions]
        return [Frames(codes) for codes in self._encoder.encode_many(states, audio, counts, finals)]

    def decode_many(
        self, sessions: Sequence[Session], frames: Sequence[Frames], finals: Sequence[bool]
    ) -> list[torch.Tensor]:
        states = [session.state for session in sessions]
        return self._decoder.decode_many(states, [block.codes for block in frames], finals)


class StereoCodec:
    """A mono codec for two channels: codebooks alternate, left and right, as in AudioCraft's stereo MusicGen."""

    is_streamable, segment_frames, segment_stride = True, 0, 0

    def __init__(self, mono: StreamingCodec) -> None:
        self._mono = mono
        self.hop = mono.hop
        self.encode_lookahead, self.encode_start = mono.encode_lookahead, mono.encode_start
        self.decode_lookahead, self.decode_start = mono.decode_lookahead, mono.decode_start

    def encoding(self, codebook_count: int) -> Session:
        return Session([self._mono.encoding(codebook_count // 2) for _ in range(2)], codebook_count)

    def decoding(self) -> Session:
        return Session([self._mono.decoding() for _ in range(2)])

    def encode_many(
        self, sessions: Sequence[Session], audio: Sequence[torch.Tensor], finals: Sequence[bool]
    ) -> list[Frames]:
        channels = [part for session in sessions for part in session.state]
        blocks = [block[side : side + 1] for block in audio for side in range(2)]
        made = self._mono.encode_many(channels, blocks, [final for final in finals for _ in range(2)])
        pairs = zip(made[::2], made[1::2], strict=True)
        return [Frames(torch.stack([left.codes, right.codes], dim=1).flatten(0, 1)) for left, right in pairs]

    def decode_many(
        self, sessions: Sequence[Session], frames: Sequence[Frames], finals: Sequence[bool]
    ) -> list[torch.Tensor]:
        channels = [part for session in sessions for part in session.state]
        blocks = [Frames(block.codes[side::2]) for block in frames for side in range(2)]
        made = self._mono.decode_many(channels, blocks, [final for final in finals for _ in range(2)])
        return [torch.cat(pair) for pair in zip(made[::2], made[1::2], strict=True)]


@dataclass
class _Gathered:
    """What came so far of a piece that is needed whole."""

    parts: list[torch.Tensor] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)


class WholeCodec:
    """A model that only runs on whole pieces, through its own `encode` and `decode`."""

    is_streamable, segment_frames, segment_stride = False, 0, 0
    encode_lookahead = encode_start = decode_lookahead = decode_start = 0

    def __init__(self, model: Any) -> None:
        from audiocraft.models.encodec import DAC

        self._model = model
        self.hop = round(model.sample_rate / model.frame_rate)
        # DAC's network drops what does not fill a frame; its own tools pad by zeros first.
        self._fills = isinstance(model, DAC)

    def encoding(self, codebook_count: int) -> Session:
        return Session(_Gathered(), codebook_count)

    def decoding(self) -> Session:
        return Session(_Gathered())

    @torch.inference_mode()
    def encode_many(
        self, sessions: Sequence[Session], audio: Sequence[torch.Tensor], finals: Sequence[bool]
    ) -> list[Frames]:
        made = []
        for session, block, final in zip(sessions, audio, finals, strict=True):
            session.state.parts.append(block)
            made.append(Frames(torch.zeros(session.codebook_count, 0, dtype=torch.long)))
            whole = torch.cat(session.state.parts, dim=1) if final else block
            if final and whole.shape[1]:
                if self._fills:
                    whole = functional.pad(whole, (0, -whole.shape[1] % self.hop))
                codes, scale = self._model.encode(whole[None])
                # A residual quantiser's first codebooks are the same however many follow.
                codes = codes[0, : session.codebook_count]
                made[-1] = Frames(codes, [] if scale is None else [float(scale)] * codes.shape[1])
        return made

    @torch.inference_mode()
    def decode_many(
        self, sessions: Sequence[Session], frames: Sequence[Frames], finals: Sequence[bool]
    ) -> list[torch.Tensor]:
        made = []
        for session, block, final in zip(sessions, frames, finals, strict=True):
            session.state.parts.append(block.codes)
            session.state.scales += block.scales
            made.append(torch.zeros(int(self._model.channels), 0))
            whole = torch.cat(session.state.parts, dim=1) if final else block.codes
            if final and whole.shape[1]:
                scales = session.state.scales
                scale = torch.tensor([[scales[0]]], device=whole.device) if scales else None
                made[-1] = self._model.decode(whole[None], scale)[0]
        return made
