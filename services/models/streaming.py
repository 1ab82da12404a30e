"""EnCodec in pieces, both ways: joined, they are exactly the offline result.

The networks of EnCodec (arXiv 2210.13438) are convolutions around a forward LSTM. Each layer keeps its own place in a
stream (`services/models/layers.py`), so a chunk costs what its length costs, and memory is constant. Causal models
need no look-ahead; others lag by what their convolutions look ahead. The ends of a piece see the model's own padding,
as offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from services.models.layers import Place, UnsupportedCodec
from services.models.quantizing import quantizer_of
from services.models.seanet import Network, first

__all__ = ["DecoderState", "EncoderState", "StreamingDecoder", "StreamingEncoder", "UnsupportedCodec"]


@dataclass
class DecoderState:
    """The state of one stream that is decoded; ``DecoderState()`` at its start."""

    place: Place | None = None


@dataclass
class EncoderState:
    """The state of one stream that is encoded; ``EncoderState()`` at its start."""

    place: Place | None = None


class StreamingDecoder:
    """Decodes codes in pieces, for AudioCraft's ``EncodecModel`` and transformers' (through AudioCraft's wrapper).

    Raises:
        UnsupportedCodec: the codec is of another kind, or normalises over time.
    """

    def __init__(self, codec: Any) -> None:
        model, _, modules = _parts(codec)
        self.hop: int = round(codec.sample_rate / codec.frame_rate)
        self.network = Network(modules)
        if self.network.is_whole:
            raise UnsupportedCodec("codec: its decoder normalises over time, which no stream can do exactly")
        self._quantizer = quantizer_of(model)
        self._channels = int(codec.channels)

    @cached_property
    def lookahead_frames(self) -> int:
        """Frames that must follow a frame before it can be decoded, once the stream has started."""
        frames = 64
        return -(-(frames * self.hop - self.network.settled(frames)) // self.hop)

    @cached_property
    def start_frames(self) -> int:
        """Frames that must be there before the first samples come: padding by reflection looks at them."""
        return first(lambda count: self.network.settled(count) > 0)

    def decode(self, state: DecoderState, codes: torch.Tensor, final: bool) -> torch.Tensor:
        """Decode the next codes ``[K, n]``; return the samples ``[C, m]`` that are settled by now.

        Args:
            state: the stream; ``DecoderState()`` at its start.
            codes: the next frames; there may be none when ``final``.
            final: no more codes will come: everything that is left is returned.
        """
        return self.decode_many([state], [codes], [final])[0]

    @torch.inference_mode()
    def decode_many(
        self, states: Sequence[DecoderState], codes: Sequence[torch.Tensor], finals: Sequence[bool]
    ) -> list[torch.Tensor]:
        """Do `decode` for several streams. Those that are equally far in their chunk share each call of the network.

        No result depends on which streams share the call, where `services.models.packed` packs the weights.
        """
        inputs = [self._quantizer.decode(block).unsqueeze(0) for block in codes]
        outputs = _advance(self.network, states, inputs, finals)
        return [samples[0].transpose(0, 1).reshape(self._channels, -1) for samples in outputs]


class StreamingEncoder:
    """Encodes audio in pieces, for the codecs of `StreamingDecoder`.

    Raises:
        UnsupportedCodec: the codec is of another kind, or normalises its input or over time.
    """

    def __init__(self, codec: Any) -> None:
        model, modules, _ = _parts(codec)
        self.hop: int = round(codec.sample_rate / codec.frame_rate)
        self.network = Network(modules)
        if self.network.is_whole:
            raise UnsupportedCodec("codec: its encoder normalises over time, which no stream can do exactly")
        self._quantizer = quantizer_of(model)

    @cached_property
    def lookahead_samples(self) -> int:
        """Samples that must follow a frame before it can be encoded, once the stream has started."""
        frames = 64
        needed = first(lambda count: self.network.settled(count) >= frames)
        return max(0, needed - frames * self.hop)

    @cached_property
    def start_samples(self) -> int:
        """Samples that must be there before the first frame comes: padding by reflection looks at them."""
        return first(lambda count: self.network.settled(count) > 0)

    def encode(self, state: EncoderState, audio: torch.Tensor, codebook_count: int, final: bool) -> torch.Tensor:
        """Encode the next samples ``[C, n]``; return the codes ``[K, m]`` that are settled by now.

        Args:
            state: the stream; ``EncoderState()`` at its start.
            audio: the next samples, any number of them; there may be none.
            codebook_count: K, the same throughout a stream.
            final: no more audio will come: the rest is padded as offline and every frame is returned.
        """
        return self.encode_many([state], [audio], [codebook_count], [final])[0]

    @torch.inference_mode()
    def encode_many(
        self,
        states: Sequence[EncoderState],
        audio: Sequence[torch.Tensor],
        codebook_counts: Sequence[int],
        finals: Sequence[bool],
    ) -> list[torch.Tensor]:
        """Do `encode` for several streams; as `StreamingDecoder.decode_many`."""
        inputs = [block.t().unsqueeze(0) for block in audio]
        vectors = _advance(self.network, states, inputs, finals)
        return [
            self._quantizer.encode(rows[0], count) if rows.shape[1] else torch.zeros(count, 0, dtype=torch.long)
            for rows, count in zip(vectors, codebook_counts, strict=True)
        ]


def _advance(
    network: Network,
    states: Sequence[DecoderState] | Sequence[EncoderState],
    inputs: list[torch.Tensor],
    finals: Sequence[bool],
) -> list[torch.Tensor]:
    """Push the inputs of streams; those that end run alone, the others together."""
    places = []
    for state in states:
        state.place = state.place or network.begin()
        places.append(state.place)
    going = [index for index, final in enumerate(finals) if not final]
    made = network.push_many([places[index] for index in going], [inputs[index] for index in going])
    outputs = dict(zip(going, made, strict=True))
    return [
        outputs[index] if index in outputs else network.push(places[index], inputs[index], True)
        for index in range(len(places))
    ]


def _parts(codec: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return the model that holds the quantizer, and the modules of encoder and decoder."""
    from audiocraft.models.encodec import EncodecModel, HFEncodecCompressionModel

    if isinstance(codec, EncodecModel):
        if codec.renormalize:
            raise UnsupportedCodec("codec: it normalises its input by segments")
        return codec, list(codec.encoder.model), list(codec.decoder.model)
    if isinstance(codec, HFEncodecCompressionModel):
        return codec.model, list(codec.model.encoder.layers), list(codec.model.decoder.layers)
    raise UnsupportedCodec(f"codec: {type(codec).__name__} is not an EnCodec")
