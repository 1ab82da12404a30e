"""What a step of a generation made audible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from services.generator.requests import Resume


@dataclass(frozen=True)
class Output:
    """What a step made audible.

    Attributes:
        steps: steps done.
        audio: float32 ``[C, n]`` on the CPU, from sample ``first_sample`` on; empty when nothing is due.
        codes: int32 ``[K, m]``, from frame ``first_frame`` on: all that were decoded with this step.
        final: the piece is whole.
    """

    steps: int
    audio: torch.Tensor
    first_sample: int
    codes: NDArray[np.int32]
    first_frame: int
    final: bool


def unheard(output: Output, resume: Resume) -> Output:
    """Leave out what the caller has already."""
    samples = max(0, resume.received_samples - output.first_sample)
    frames = max(0, resume.codes.shape[1] - output.first_frame)
    return replace(
        output,
        audio=output.audio[:, samples:],
        first_sample=output.first_sample + min(samples, output.audio.shape[1]),
        codes=output.codes[:, frames:],
        first_frame=output.first_frame + min(frames, output.codes.shape[1]),
    )
