"""Entropy coding of codes with EnCodec's language model, bit for bit as the public `encodec` package does it.

The arithmetic coder and the transformer are the package's. The weights are Meta's `encodec_lm_*.th`; a checkpoint
folder that holds such a file has entropy coding.
"""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from encodec.model import LMModel
from encodec.quantization.ac import ArithmeticCoder, ArithmeticDecoder, build_stable_quantized_cdf
from numpy.typing import NDArray

from services.models.checkpoint import CheckpointError

_PATTERN = "encodec_lm_*.th"
_CONTEXT_SECONDS = 3.5


class EntropyCoder:
    """Codes of one model to fewer bytes and back, a segment a call. Calls share nothing that changes.

    Args:
        model: `encodec`'s language model over the codebooks.
    """

    def __init__(self, model: LMModel) -> None:
        self._model = model.eval()
        self.codebook_count = model.n_q
        """The most codebooks that can be coded."""

    @torch.inference_mode()
    def compress(self, codes: NDArray[np.int32], stopped: threading.Event) -> bytes:
        """Return the bytes of ``[K, T]`` codes, T from 0; an early end where `stopped` gets set."""
        out = io.BytesIO()
        coder = ArithmeticCoder(out)
        state = _State(self._model, codes.shape[0])
        for frame in codes.T:
            if stopped.is_set():
                break
            probabilities = state.next()
            for book, code in enumerate(frame.tolist()):
                coder.push(code, _cumulated(probabilities[:, book], coder.total_range_bits))
            state.take(frame)
        coder.flush()  # type: ignore[no-untyped-call]
        return out.getvalue()

    @torch.inference_mode()
    def expand(
        self, data: BinaryIO, codebook_count: int, frame_count: int, stopped: threading.Event
    ) -> NDArray[np.int32]:
        """Read the codes ``[K, T]`` of a segment. Raises `ValueError` when the data ends before."""
        decoder = ArithmeticDecoder(data)
        state = _State(self._model, codebook_count)
        codes = np.zeros((codebook_count, frame_count), np.int32)
        for index in range(frame_count):
            if stopped.is_set():
                break
            probabilities = state.next()
            for book in range(codebook_count):
                try:
                    code = decoder.pull(_cumulated(probabilities[:, book], decoder.total_range_bits))
                except RuntimeError as error:
                    # No range holds the number that was read: other codes, or another model.
                    raise ValueError("not made by this model") from error
                if code is None:
                    raise ValueError(f"truncated: {index} of {frame_count} frames are there")
                codes[book, index] = code
            state.take(codes[:, index])
        return codes


class _State:
    """The language model on its way through a segment."""

    def __init__(self, model: LMModel, codebook_count: int) -> None:
        self._model = model
        # 0 stands for "nothing yet", so every code is one higher.
        self._input = torch.zeros(1, codebook_count, 1, dtype=torch.long)
        self._states: Any = None
        self._offset = 0

    def next(self) -> torch.Tensor:
        """Return the probabilities ``[codebook_size, K]`` of the next frame's codes."""
        probabilities, self._states, self._offset = self._model(self._input, self._states, self._offset)
        return torch.as_tensor(probabilities)[0, :, :, 0]

    def take(self, frame: NDArray[np.int32]) -> None:
        self._input = 1 + torch.from_numpy(frame.astype(np.int64))[None, :, None]


def _cumulated(probabilities: torch.Tensor, bits: int) -> torch.Tensor:
    return build_stable_quantized_cdf(probabilities, bits, check=False)


def load_entropy_coder(folder: Path, frame_rate_hz: float) -> EntropyCoder | None:
    """Load the language model of a checkpoint folder; None where there is none.

    Raises:
        CheckpointError: The file is there and can't be loaded.
    """
    files = sorted(folder.glob(_PATTERN)) if folder.is_dir() else []
    if not files:
        return None
    try:
        state = torch.load(files[0], map_location="cpu", weights_only=True)
        codebooks = sum(bool(re.fullmatch(r"emb\.\d+\.weight", key)) for key in state)
        layers = 1 + max(int(found[1]) for key in state if (found := re.match(r"transformer\.layers\.(\d+)\.", key)))
        entries, dimension = state["emb.0.weight"].shape
        context = int(_CONTEXT_SECONDS * frame_rate_hz)
        model = LMModel(codebooks, entries - 1, dimension, num_layers=layers, past_context=context)
        model.load_state_dict(state)
    except Exception as error:
        raise CheckpointError(f"{files[0]}: is not a language model of EnCodec: {error}") from error
    return EntropyCoder(model)
