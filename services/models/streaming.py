"""EnCodec decoding in pieces that join to exactly the offline result.

The decoder of EnCodec (arXiv 2210.13438) is convolutions around an optional forward LSTM. An output sample
depends on a few latent frames on either side, and, through the LSTM, on all before. So each stage of convolutions
runs over a window of new frames with just enough context on both sides, its outputs outside the new frames are
dropped, and the LSTM carries its state. The ends of the piece see the model's own padding, as offline. Cost and
memory a piece are constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


class UnsupportedCodec(Exception):
    """A codec that this decoder can't run in pieces; the message says why."""


@dataclass(frozen=True)
class Layer:
    """How a layer moves positions in time: a convolution, or a transposed one when ``stride`` is above 1."""

    kernel: int
    dilation: int
    stride: int
    causal: bool
    transposed: bool
    reflects: bool
    trim_right_ratio: float = 1.0

    def sources(self, first: int, last: int) -> tuple[int, int]:
        """Return the first and last input position that outputs ``first`` to ``last`` depend on."""
        if self.transposed:
            total = self.kernel - self.stride
            right = math.ceil(total * self.trim_right_ratio) if self.causal else total // 2
            left = total - right
            return -((-(first + left - self.kernel + 1)) // self.stride), (last + left) // self.stride
        total = (self.kernel - 1) * self.dilation
        right = 0 if self.causal else total // 2
        return first - (total - right), last + right


@dataclass
class WindowState:
    """What a window keeps between pieces: its input context, and how many positions went in and came out."""

    buffer: torch.Tensor | None = None
    received: int = 0
    emitted: int = 0


class Window:
    """A stage of convolutions that runs in pieces.

    Args:
        modules: the layers, in order.
        hop: output positions for one input position.
    """

    def __init__(self, modules: list[nn.Module], hop: int) -> None:
        self.modules = modules
        self.hop = hop
        first, last, rate, start = 0, hop - 1, hop, 0
        for layer in reversed([layer for module in modules for layer in _layers(module)]):
            first, last = layer.sources(first, last)
            rate = rate // layer.stride if layer.transposed else rate
            if layer.reflects and not layer.transposed:
                # Padding by reflection looks at inputs to the right of the start.
                start = max(start, math.ceil(-layer.sources(0, 0)[0] / rate))
        self.left, self.right = -first, last
        self.start = max(start, self.right)

    def push(self, state: WindowState, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        """Take inputs ``[1, D, n]`` and return the outputs ``[1, C, m * hop]`` that they settle."""
        buffer = inputs if state.buffer is None else torch.cat([state.buffer, inputs], dim=-1)
        state.received += inputs.shape[-1]
        begin = state.received - buffer.shape[-1]
        ready = state.received if final else state.received - (self.right if state.emitted else self.start)
        count = max(0, ready - state.emitted)
        if count == 0:
            state.buffer = buffer
            return inputs.new_zeros(1, 0, 0)
        outputs = buffer
        for module in self.modules:
            outputs = module(outputs)
        offset = (state.emitted - begin) * self.hop
        state.emitted += count
        # Cloned: what is kept must not hold the whole window in memory.
        keep = max(0, state.emitted - self.left - begin)
        state.buffer = buffer[..., keep:].clone()
        return outputs[..., offset : offset + count * self.hop]


@dataclass
class DecoderState:
    """The state of one stream."""

    before: WindowState = field(default_factory=WindowState)
    after: WindowState = field(default_factory=WindowState)
    lstm: tuple[torch.Tensor, torch.Tensor] | None = None


class StreamingDecoder:
    """Decodes codes in pieces, for AudioCraft's ``EncodecModel`` and transformers' (through AudioCraft's wrapper).

    Raises:
        UnsupportedCodec: the codec is of another kind, or normalises over time.
    """

    def __init__(self, codec: Any) -> None:
        self.codec = codec
        modules = _decoder_modules(codec)
        if any(isinstance(m, nn.GroupNorm) for module in modules for m in module.modules()):
            raise UnsupportedCodec("codec: its decoder normalises over time, which no stream can do exactly")
        self.hop = round(codec.sample_rate / codec.frame_rate)
        at = next(
            (i for i, module in enumerate(modules) if isinstance(getattr(module, "lstm", None), nn.LSTM)),
            None,
        )
        self.lstm: Any = None if at is None else modules[at]
        self.before = Window(modules if at is None else modules[:at], self.hop if at is None else 1)
        self.after = None if at is None else Window(modules[at + 1 :], self.hop)

    @property
    def lookahead_frames(self) -> int:
        """Frames that must follow a frame before it can be decoded."""
        return self.before.right + (self.after.right if self.after else 0)

    @torch.inference_mode()
    def decode(self, state: DecoderState, codes: torch.Tensor, final: bool) -> torch.Tensor:
        """Decode the next codes ``[K, n]``; return the samples ``[C, m]`` that are settled by now.

        Args:
            state: the stream; ``DecoderState()`` at its start.
            codes: the next frames; there may be none when ``final``.
            final: no more codes will come: everything that is left is returned.
        """
        if codes.shape[-1]:
            hidden = self.codec.decode_latent(codes[None])
        else:
            buffer = state.before.buffer
            hidden = codes.new_zeros(1, 0 if buffer is None else buffer.shape[1], 0, dtype=torch.float32)
            if buffer is None:
                return hidden[0]
        output = self.before.push(state.before, hidden, final)
        if self.after is not None:
            if output.shape[-1]:
                output = self._recur(state, output)
            elif state.after.buffer is None:
                return output[0]
            else:
                output = output.new_zeros(1, state.after.buffer.shape[1], 0)
            output = self.after.push(state.after, output, final)
        return output[0]

    def _recur(self, state: DecoderState, inputs: torch.Tensor) -> torch.Tensor:
        steps = inputs.permute(2, 0, 1)
        outputs, state.lstm = self.lstm.lstm(steps, state.lstm)
        if getattr(self.lstm, "skip", True):
            outputs = outputs + steps
        return torch.as_tensor(outputs.permute(1, 2, 0))


def _decoder_modules(codec: Any) -> list[nn.Module]:
    from audiocraft.models.encodec import EncodecModel, HFEncodecCompressionModel

    if isinstance(codec, EncodecModel):
        if codec.renormalize:
            raise UnsupportedCodec("codec: it normalises its input by segments")
        return list(codec.decoder.model)
    if isinstance(codec, HFEncodecCompressionModel):
        return list(codec.model.decoder.layers)
    raise UnsupportedCodec(f"codec: {type(codec).__name__} is not an EnCodec")


def _layers(module: nn.Module) -> list[Layer]:
    """Return what a decoder module does in time; of a residual block only the branch that reaches furthest."""
    from audiocraft.modules.conv import StreamableConv1d, StreamableConvTranspose1d
    from audiocraft.modules.seanet import SEANetResnetBlock
    from transformers.models.encodec.modeling_encodec import (
        EncodecConv1d,
        EncodecConvTranspose1d,
        EncodecResnetBlock,
    )

    if isinstance(module, StreamableConv1d | EncodecConv1d):
        conv = module.conv.conv if isinstance(module, StreamableConv1d) else module.conv
        reflects = module.pad_mode == "reflect"
        return [Layer(conv.kernel_size[0], conv.dilation[0], 1, module.causal, False, reflects)]
    if isinstance(module, StreamableConvTranspose1d | EncodecConvTranspose1d):
        conv = module.convtr.convtr if isinstance(module, StreamableConvTranspose1d) else module.conv
        ratio = float(module.trim_right_ratio)
        return [Layer(conv.kernel_size[0], 1, conv.stride[0], module.causal, True, False, ratio)]
    if isinstance(module, SEANetResnetBlock | EncodecResnetBlock):
        return [layer for child in module.block for layer in _layers(child)]
    if not list(module.children()) and not isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        return []  # an activation
    raise UnsupportedCodec(f"codec: a decoder layer of type {type(module).__name__}")
