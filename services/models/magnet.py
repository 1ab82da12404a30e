"""MAGNeT (arXiv 2401.04577) as AudioCraft runs it: all frames of a codebook at once, masked and drawn again."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from services.models.sampling import Sampling

SAMPLING = Sampling(temperature=3.0, top_k=0, top_p=0.9, cfg_coef=10.0)
"""AudioCraft's defaults. Guidance falls from ``cfg_coef`` to 1 as the masks do."""
FIRST_STEPS, OTHER_STEPS = 20, 10
LOWEST_GUIDANCE = 1.0


def is_magnet(config: DictConfig) -> bool:
    """Tell whether a checkpoint's configuration is of a MAGNeT model."""
    return bool(config.get("lm_model") == "transformer_lm_magnet")


def complete(config: DictConfig, frame_rate_hz: float) -> None:
    """Write into a configuration what AudioCraft adds to it when it loads it.

    AudioCraft lets xformers attend, which needs a GPU, and its other memory-efficient backend ignores the masks. Its
    plain attention has the same weights and takes the masks on every device.
    """
    OmegaConf.set_struct(config, False)
    part = config.transformer_lm
    part.compression_model_framerate = int(frame_rate_hz)
    part.segment_duration = int(config.dataset.segment_duration)
    part.span_len = config.masking.span_len
    part.memory_efficient, part.custom = False, True


def fit_masks(lm: Any, frames: int) -> int:
    """Cut the masks, which are padded for xformers, to the piece; return its frames, which are whole spans."""
    size = frames - frames % int(lm.span_len) if lm.span_len > 1 else frames
    lm.attn_mask_per_stage = [mask if mask is None else mask[..., :size, :size] for mask in lm.attn_mask_per_stage]
    return size


def parameters(lm: Any, sampling: Sampling) -> dict[str, Any]:
    """Return the arguments of ``MagnetLMModel.generate``."""
    return {
        "use_sampling": sampling.use_sampling,
        "temp": sampling.temperature,
        "top_k": min(sampling.top_k, lm.card),
        "top_p": sampling.top_p,
        "max_cfg_coef": sampling.cfg_coef,
        "min_cfg_coef": min(LOWEST_GUIDANCE, sampling.cfg_coef),
        "decoding_steps": decoding_steps(lm),
    }


def decoding_steps(lm: Any) -> list[int]:
    """Return how often each codebook is drawn."""
    return [FIRST_STEPS] + [OTHER_STEPS] * (lm.n_q - 1)
