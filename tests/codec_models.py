"""Codecs of the hub's shapes with seeded random weights, in the layouts that the hub has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from audiocraft.models import builders
from audiocraft.models.encodec import HFEncodecCompressionModel
from omegaconf import OmegaConf
from transformers import EncodecConfig, EncodecModel

from services.models.tiny.checkpoints import CODEC_CONFIG, build_codec, save

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "encodec_24khz": {},
    "encodec_32khz": {
        "sampling_rate": 32_000,
        "num_filters": 64,
        "upsampling_ratios": [8, 5, 4, 4],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "codebook_size": 2048,
        "target_bandwidths": [2.2],
    },
    "encodec_48khz": {
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    },
}
"""What differs from transformers' default configuration, as on the hub."""

_LSTM = CODEC_CONFIG.replace("lstm: 0", "lstm: 2").replace("pad_mode: constant", "pad_mode: reflect")
_CENTRED = _LSTM.replace("causal: true", "causal: false")
SEANET: dict[str, str] = {
    "embedded": CODEC_CONFIG,
    "encodec_16khz": _CENTRED.replace("sample_rate: 32000", "sample_rate: 16000")
    .replace("ratios: [8, 5, 4, 4]", "ratios: [8, 5, 4, 2]")
    .replace("bins: 512", "bins: 2048"),
    "encodec_24khz": _LSTM.replace("sample_rate: 32000", "sample_rate: 24000")
    .replace("ratios: [8, 5, 4, 4]", "ratios: [8, 5, 4, 2]")
    .replace("true_skip: true", "true_skip: false"),
    "encodec_32khz": _CENTRED.replace("bins: 512", "bins: 2048"),
}
SEANET["encodec_24khz_full"] = (
    SEANET["encodec_24khz"]
    .replace("dimension: 64", "dimension: 128")
    .replace("n_q: 4, bins: 512", "n_q: 32, bins: 1024")
)
"""AudioCraft's configurations: the layers, ratios and paddings of the hub's models, with `filters` at will."""


def transformers_codec(name: str, filters: int | None = None, seed: int = 0) -> Any:
    """Return transformers' ``EncodecModel`` of a shape; with fewer filters than the hub's, if given."""
    changes = dict(TRANSFORMERS[name])
    if filters:
        changes["num_filters"] = filters
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EncodecModel(EncodecConfig(**changes)).eval()
        _fit_codebooks([layer.codebook.embed for layer in model.quantizer.layers], _spread(model))
    return model


def seanet_codec(name: str, filters: int = 8, seed: int = 0) -> Any:
    """Return AudioCraft's ``EncodecModel`` of a shape."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_codec(SEANET[name].replace("n_filters: 16", f"n_filters: {filters}")).eval()
        _fit_codebooks([layer.codebook for layer in model.quantizer.vq.layers], _spread(model))
    return model


def wrapped(model: Any) -> Any:
    """Return transformers' model as AudioCraft wraps it, all codebooks in use."""
    return HFEncodecCompressionModel(model).eval()


def save_seanet(folder: Path, name: str, filters: int = 8, seed: int = 0) -> Path:
    """Write a checkpoint in AudioCraft's layout."""
    config = SEANET[name].replace("n_filters: 16", f"n_filters: {filters}")
    save(folder / "compression_state_dict.bin", config, seanet_codec(name, filters, seed).state_dict())
    return folder


def save_transformers(folder: Path, name: str, filters: int | None = None, seed: int = 0) -> Path:
    """Write a checkpoint in transformers' layout."""
    transformers_codec(name, filters, seed).save_pretrained(folder)
    return folder


def noise(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Return ``[C, T]`` of noise whose loudness changes."""
    generator = torch.Generator().manual_seed(seed)
    count = max(1, round(seconds * rate))
    swell = 0.2 + 0.15 * torch.sin(torch.arange(count) / rate * 7.0)
    return torch.randn(channels, count, generator=generator) * swell


@torch.no_grad()
def _spread(model: Any) -> float:
    channels = int(getattr(model, "channels", 0) or model.config.audio_channels)
    return float(model.encoder(noise(0.3, 24_000, channels)[None]).std())


def _fit_codebooks(books: list[torch.Tensor], spread: float) -> None:
    """Fill codebooks with entries of the encoder's scale: untrained, its output would reach but a few of them."""
    for index, book in enumerate(books):
        book.data.copy_(torch.randn(book.shape) * spread * 0.8**index)


def save_diffusion(path: Path, bands: int = 2, dimension: int = 64) -> Path:
    """Write a small MultiBandDiffusion checkpoint in the layout of facebook/multiband-diffusion, for 24 kHz."""
    package: dict[Any, Any] = {"sample_rate": 24_000, "n_bands": bands}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for band in range(bands):
            config = OmegaConf.create(
                {
                    "channels": 1,
                    "diffusion_unet": {
                        "hidden": 8,
                        "depth": 2,
                        "growth": 2,
                        "kernel": 8,
                        "stride": 4,
                        "bilstm": True,
                        "codec_dim": dimension,
                        "emb_all_layers": True,
                    },
                    "schedule": {"beta_t0": 1e-5, "beta_t1": 2.9e-2, "beta_exp": 7.5, "num_steps": 1000, "clip": 5.0},
                    "processor": {"name": "multi_band_processor", "use": True, "n_bands": 4, "num_samples": 10},
                }
            )
            processor = builders.get_processor(config.processor, sample_rate=24_000)
            for name, value in (("counts", 10.0), ("sum_x2", 1.0), ("sum_target_x2", 2.0)):
                getattr(processor, name).fill_(value)
            package[band] = {
                "cfg": config,
                "model_state": builders.get_diffusion_model(config).state_dict(),
                "processor_state": processor.state_dict(),
            }
    torch.save(package, path)
    return path


def save_normalising(folder: Path) -> Path:
    """Write an AudioCraft checkpoint that normalises whole pieces, and so can't stream."""
    config = CODEC_CONFIG.replace("causal: true, renormalize: false", "causal: false, renormalize: true")
    save(folder / "compression_state_dict.bin", config, build_codec(config).state_dict())
    return folder
