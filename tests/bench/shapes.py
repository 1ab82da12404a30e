"""The models that are measured. Speed does not depend on what weights say, so random ones of a shape do."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from services.models.checkpoint import EMBEDDED
from services.models.loader import LoadedGenerator, ModelInfo, load_generator
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import LM_CONFIG, build_codec, build_lm

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {},
    "small": {"card": 2048, "dim": 1024, "num_heads": 16, "num_layers": 24},
    "medium": {"card": 2048, "dim": 1536, "num_heads": 24, "num_layers": 48},
}
"""What differs from the embedded model's language model. "small" and "medium" are MusicGen's."""


def load(shape: str, device: str) -> tuple[LoadedGenerator, str]:
    """Return the model of a shape and what its weights are, in words: the embedded ones where there are any.

    Raises:
        CheckpointError: the embedded checkpoint is there and can't be loaded.
    """
    if shape == "tiny" and EMBEDDED["tiny"].is_dir():
        return load_generator("tiny", device), "embedded"
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder, "text_encoder")
        text_encoder.build(encoder)
        config = OmegaConf.create(LM_CONFIG % {"text_encoder": encoder})
        config.transformer_lm.update(SHAPES[shape])
        lm = build_lm(encoder, OmegaConf.to_yaml(config), device).eval()
    codec = (build_codec(device=device) if shape == "tiny" else _encodec_32khz(device)).eval()
    return LoadedGenerator(lm, codec, _info(shape, lm, codec, device)), "random"


def _encodec_32khz(device: str) -> Any:
    """Return MusicGen's codec with random weights: transformers' EnCodec in the shape of facebook/encodec_32khz."""
    from audiocraft.models.encodec import HFEncodecCompressionModel
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(
        target_bandwidths=[2.2],
        sampling_rate=32_000,
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        use_causal_conv=False,
        codebook_size=2048,
        use_conv_shortcut=False,
    )
    return HFEncodecCompressionModel(EncodecModel(config)).to(device)


def _info(shape: str, lm: Any, codec: Any, device: str) -> ModelInfo:
    return ModelInfo(
        name=shape,
        kind="music",
        sample_rate_hz=int(codec.sample_rate),
        channel_count=int(codec.channels),
        frame_rate_hz=float(codec.frame_rate),
        codebook_count=int(codec.num_codebooks),
        codebook_size=int(codec.cardinality),
        max_duration_seconds=30.0,
        parameter_count=sum(p.numel() for module in (lm, codec) for p in module.parameters()),
        digest="",
        device=device,
        precision="fp32",
        license="",
    )
