"""The embedded checkpoints: their configurations, and how they are written in AudioCraft's layout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

CODEC_CONFIG = """
compression_model: encodec
encodec: {autoencoder: seanet, quantizer: rvq, sample_rate: 32000, channels: 1, causal: true, renormalize: false}
seanet:
  dimension: 64
  channels: 1
  causal: true
  n_filters: 16
  n_residual_layers: 1
  ratios: [8, 5, 4, 4]
  activation: ELU
  activation_params: {alpha: 1.0}
  norm: weight_norm
  norm_params: {}
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: constant
  true_skip: true
  compress: 2
  lstm: 0
  disable_norm_outer_blocks: 0
  decoder: {trim_right_ratio: 1.0, final_activation: null, final_activation_params: null}
  encoder: {}
rvq: {n_q: 4, bins: 512, q_dropout: false, decay: 0.99, kmeans_init: false, threshold_ema_dead_code: 0}
"""

LM_CONFIG = """
lm_model: transformer_lm
dataset: {segment_duration: 20}
codebooks_pattern: {modeling: delay, delay: {delays: [0, 1, 2, 3], flatten_first: 0, empty_initial: 0}}
transformer_lm:
  n_q: 4
  card: 512
  dim: 192
  num_heads: 6
  num_layers: 6
  hidden_scale: 4
  dropout: 0.0
  causal: true
  custom: false
  memory_efficient: true
  norm: layer_norm
  norm_first: true
  bias_ff: false
  bias_attn: false
  bias_proj: false
  past_context: null
  activation: gelu
  positional_embedding: sin
  layer_scale: null
  weight_init: gaussian
  depthwise_init: current
  zero_bias_init: true
  attention_as_float32: false
classifier_free_guidance: {training_dropout: 0.15, inference_coef: 3.0}
attribute_dropout: {}
fuser:
  cross_attention_pos_emb: false
  cross_attention_pos_emb_scale: 1
  sum: []
  prepend: []
  cross: [description]
  input_interpolate: []
conditioners:
  description:
    model: t5
    t5: {name: %(text_encoder)s, finetune: true, word_dropout: 0.0, normalize_text: false}
"""

SOUND_CODEC_CONFIG = CODEC_CONFIG.replace("32000", "16000").replace("[8, 5, 4, 4]", "[8, 5, 4, 2]")
"""AudioGen's rate, and the same 50 frames a second."""
SOUND_LM_CONFIG = (
    LM_CONFIG.replace("segment_duration: 20", "segment_duration: 10")
    .replace("dim: 192", "dim: 128")
    .replace("num_heads: 6", "num_heads: 4")
    .replace("lm_model:", "solver: audiogen\nlm_model:")
)


def build_codec(config: str = CODEC_CONFIG, device: str = "cpu") -> Any:
    """Return an untrained AudioCraft ``EncodecModel``."""
    from audiocraft.models import builders

    cfg = OmegaConf.create(config)
    cfg.device = device
    return builders.get_compression_model(cfg).to(device)


def build_lm(text_encoder: Path, config: str = LM_CONFIG, device: str = "cpu") -> Any:
    """Return an untrained AudioCraft ``LMModel`` over the text encoder folder."""
    from audiocraft.models import builders
    from audiocraft.modules.conditioners import T5Conditioner
    from transformers import T5Config

    name = str(text_encoder)
    T5Conditioner.MODELS = [*T5Conditioner.MODELS, name]
    T5Conditioner.MODELS_DIMS = {**T5Conditioner.MODELS_DIMS, name: T5Config.from_pretrained(name).d_model}
    cfg = OmegaConf.create(config % {"text_encoder": name})
    cfg.device, cfg.dtype = device, "float32"
    model = builders.get_lm_model(cfg)
    model.cfg = cfg
    return model


def save(path: Path, config: str, state: dict[str, torch.Tensor], half: bool = False) -> None:
    """Write one AudioCraft checkpoint file, complete or not at all."""
    tensors = {
        k: v.detach().cpu().half() if half and v.is_floating_point() else v.detach().cpu() for k, v in state.items()
    }
    with replacing(path) as temporary:
        torch.save({"xp.cfg": config.strip() + "\n", "best_state": tensors}, temporary)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` only when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    yield temporary
    os.replace(temporary, path)
