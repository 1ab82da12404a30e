"""Audio that a piece begins with, or whose melody it keeps, as AudioCraft takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.models.loader import ModelInfo
from services.models.melody import periodic
from services.models.resampling import convert


@torch.inference_mode()
def encode_prompt(codec: Any, samples: torch.Tensor, device: torch.device) -> NDArray[np.int64]:
    """Return the codes ``[K, P]`` of ``[C, T]`` at the codec's rate; P is T over the codec's hop, rounded up.

    Args:
        codec: AudioCraft's ``CompressionModel``.
    """
    codes, _ = codec.encode(samples[None].to(device))
    return np.asarray(codes[0].cpu().numpy(), dtype=np.int64)


def window_melody(
    melody: torch.Tensor | None, rate_hz: int, info: ModelInfo, first_frame: int, extended: bool
) -> torch.Tensor | None:
    """Return the part of a melody that the window from ``first_frame`` on hears; all of it in a piece of one window.

    Args:
        melody: ``[C, T]`` at the model's rate, or None.
        rate_hz: what the model's conditioner takes.
        extended: whether the piece has several windows.
    """
    if melody is None:
        return None
    melody = convert(melody, info.sample_rate_hz, rate_hz, len(melody))
    if not extended:
        return melody
    return periodic(melody, int(first_frame / info.frame_rate_hz * rate_hz), int(info.max_duration_seconds * rate_hz))
