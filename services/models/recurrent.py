"""The LSTM of a codec, in pieces."""

from __future__ import annotations

import torch
from torch import nn

from services.models.layers import Place, UnsupportedCodec
from services.models.packed import PackedLinear


class Recurrent:
    """A forward LSTM over time, with what it adds to its input.

    Step by step over weights that are packed once: `nn.LSTM` lays them out anew at every call, 4.5 ms for EnCodec's,
    which a chunk of six frames can't pay.
    """

    def __init__(self, lstm: nn.LSTM, skips: bool) -> None:
        if lstm.bidirectional or lstm.batch_first or lstm.proj_size or not lstm.bias:
            raise UnsupportedCodec("codec: its LSTM is not a plain forward one")
        self.skips, self.width, self._depth = skips, lstm.hidden_size, lstm.num_layers
        self.layers = []
        for index in range(lstm.num_layers):
            gates = [getattr(lstm, f"{name}_l{index}").detach() for name in ("weight_ih", "weight_hh")]
            bias = getattr(lstm, f"bias_ih_l{index}").detach() + getattr(lstm, f"bias_hh_l{index}").detach()
            # PyTorch's order is input, forget, cell, output; ours puts the cell last: one sigmoid over the others.
            ours, own, bias = (_cell_last(part) for part in (*gates, bias))
            self.layers.append((PackedLinear(ours, bias), PackedLinear(own)))

    def place(self) -> Place:
        return Place()

    def settled(self, count: int) -> int:
        return count

    def push(self, place: Place, inputs: torch.Tensor, final: bool) -> torch.Tensor:
        batch, steps, width = inputs.shape
        if not steps:
            return inputs
        zeros = inputs.new_zeros(batch, width)
        states = place.tensors or (zeros,) * (2 * self._depth)
        kept: list[torch.Tensor] = []
        hidden = inputs.transpose(0, 1).reshape(steps * batch, width)
        for index, (from_input, from_state) in enumerate(self.layers):
            state, cell = states[2 * index], states[2 * index + 1]
            gates = from_input(hidden).view(steps, batch, 4 * width)
            outputs = torch.empty(steps, batch, width, dtype=inputs.dtype, device=inputs.device)
            for step in range(steps):
                gate = from_state(state).add_(gates[step])
                gate[:, : 3 * width].sigmoid_()
                entered = gate[:, 3 * width :].tanh_().mul_(gate[:, :width])
                cell = torch.addcmul(entered, gate[:, width : 2 * width], cell)
                state = torch.mul(gate[:, 2 * width : 3 * width], cell.tanh(), out=outputs[step])
            hidden = outputs.view(steps * batch, width)
            kept += [state.clone(), cell]
        place.tensors = tuple(kept)
        outputs = hidden.view(steps, batch, width).transpose(0, 1).contiguous()
        return outputs.add_(inputs) if self.skips else outputs


def _cell_last(gates: torch.Tensor) -> torch.Tensor:
    inputs, forget, cell, output = gates.chunk(4)
    return torch.cat([inputs, forget, output, cell])
