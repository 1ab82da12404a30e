"""Small checkpoints in AudioCraft's layout, with random weights: one of every kind that the generator meets.

The weights of the embeddings and heads are made larger: fresh ones would repeat one token for ever.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from services.models.checkpoint import EMBEDDED
from services.models.tiny.checkpoints import CODEC_CONFIG, LM_CONFIG

CARD = 64
WINDOW_SECONDS = 2


def build(folder: Path, kind: str, *, window: int = WINDOW_SECONDS) -> Path:
    """Write a checkpoint of a kind (``text``, ``rope``, ``lut``, ``stereo``, ``melody``, ``sound``, ``magnet``)."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(EMBEDDED["tiny"] / "text_encoder", folder / "text")
    codec = OmegaConf.create(CODEC_CONFIG)
    codec.seanet.n_filters, codec.seanet.dimension = 4, 16
    codec.rvq.bins = CARD
    lm = OmegaConf.create(LM_CONFIG % {"text_encoder": "text"})
    lm.dataset.segment_duration = window
    lm.transformer_lm.update(dim=32, num_heads=2, num_layers=2, card=CARD)
    OmegaConf.set_struct(lm, False)
    _KINDS[kind](lm, codec, folder)
    torch.manual_seed(1)
    _save(folder / "compression_state_dict.bin", codec, _codec(codec))
    _save(folder / "state_dict.bin", lm, _lm(lm, folder))
    return folder


def _text(lm: Any, codec: Any, folder: Path) -> None:
    pass


def _rope(lm: Any, codec: Any, folder: Path) -> None:
    lm.transformer_lm.update(positional_embedding="rope", custom=True)


def _lut(lm: Any, codec: Any, folder: Path) -> None:
    lm.conditioners.description = {"model": "lut", "lut": {"n_bins": 50, "dim": 16, "tokenizer": "noop"}}


def _stereo(lm: Any, codec: Any, folder: Path) -> None:
    lm.transformer_lm.n_q = 8
    lm.codebooks_pattern.delay.delays = [0, 0, 1, 1, 2, 2, 3, 3]
    lm.interleave_stereo_codebooks = {"use": True, "per_timestep": False}


def _melody(lm: Any, codec: Any, folder: Path) -> None:
    lm.conditioners.self_wav = {
        "model": "chroma_stem",
        "chroma_stem": {
            "sample_rate": 32000,
            "n_chroma": 12,
            "radix2_exp": 12,
            "argmax": True,
            "match_len_on_eval": False,
            "eval_wavs": None,
            "n_eval_wavs": 0,
            "cache_path": "/not/there",
        },
    }
    lm.fuser.update(prepend=["self_wav", "description"], cross=[])
    separator(folder / "htdemucs")


def _sound(lm: Any, codec: Any, folder: Path) -> None:
    lm.solver = "audiogen"
    codec.encodec.sample_rate = 16000
    codec.seanet.ratios = [8, 5, 4, 2]


def _magnet(lm: Any, codec: Any, folder: Path) -> None:
    lm.lm_model = "transformer_lm_magnet"
    lm.solver = "magnet"
    lm.masking = {"span_len": 3}
    lm.transformer_lm.update(causal=False, custom=False, memory_efficient=True, subcodes_context=5)


_KINDS = {
    "text": _text,
    "rope": _rope,
    "lut": _lut,
    "stereo": _stereo,
    "melody": _melody,
    "sound": _sound,
    "magnet": _magnet,
}


def separator(folder: Path) -> None:
    """Write a small stem separator of the real class, with random weights, as demucs publishes its own."""
    from demucs.htdemucs import HTDemucs

    arguments: dict[str, Any] = {
        "channels": 4,
        "dconv_comp": 2,
        "depth": 4,
        "t_layers": 1,
        "t_heads": 2,
        "bottom_channels": 16,
        "nfft": 4096,
        "segment": 2,
    }
    sources = ["drums", "bass", "other", "vocals"]
    torch.manual_seed(2)
    model = HTDemucs(sources, **arguments)
    folder.mkdir(parents=True)
    facts = {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": json.dumps([sources]),
        "kwargs": json.dumps(arguments),
    }
    save_file(model.state_dict(), folder / "small.safetensors", facts)
    (folder / "htdemucs.yaml").write_text("models: ['small']\n")


def _codec(config: Any) -> Any:
    from audiocraft.models import builders

    config.device = "cpu"
    model = builders.get_compression_model(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1.0)
    return model


def _lm(config: Any, folder: Path) -> Any:
    """Return the language model, built as the loader builds it."""
    from audiocraft.models import builders

    from services.models import loader, magnet
    from services.models.melody import separators

    built = OmegaConf.create(OmegaConf.to_yaml(config))
    built.device, built.dtype = "cpu", "float32"
    if magnet.is_magnet(built):
        magnet.complete(built, 50.0)
    if "self_wav" in built.conditioners:
        del built.conditioners.self_wav.chroma_stem["cache_path"]
    loader._place_text_encoders(built, folder)
    with separators(folder):
        model = builders.get_lm_model(built)
    for embedding in model.emb:
        embedding.weight.data.mul_(8)
    for head in model.linears:
        head.weight.data.mul_(4)
    return model


def _save(path: Path, config: Any, model: Any) -> None:
    for unwanted in ("device", "dtype"):
        config.pop(unwanted, None)
    torch.save({"xp.cfg": OmegaConf.to_yaml(config), "best_state": model.state_dict()}, path)
