"""What one piece keeps while it is encoded or decoded, and the frames that travel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Frames:
    """Codes ``[K, n]`` and, from models that normalise their input, the loudness of each frame's segment."""

    codes: torch.Tensor
    scales: list[float] = field(default_factory=list)


@dataclass
class Session:
    """One piece on its way through a codec. ``state`` belongs to the codec that began it."""

    state: Any
    codebook_count: int = 0
