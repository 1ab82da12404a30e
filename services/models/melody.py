"""The stem separator that melody checkpoints listen through, loaded without code and run without chance.

AudioCraft's ``ChromaStemConditioner`` asks the demucs package for ``htdemucs`` and takes the chroma of what is left
without drums and bass. Here the separator is read from safetensors only: from a folder ``htdemucs`` beside the
checkpoint (``htdemucs.yaml`` and the files that it names, as demucs publishes them on the hub), else from the hub.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_CLASSES = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs")
_SHIFTS = random.Random()
_TURN = threading.Lock()


class SeparatorError(Exception):
    """A stem separator that can't be loaded; the message says what is missing or wrong."""


def load_separator(name: str, folder: Path) -> Any:
    """Return a demucs ``BagOfModels`` in evaluation mode.

    Raises:
        SeparatorError: it is neither beside the checkpoint nor to be had from the hub, or not plain safetensors.
    """
    import yaml
    from demucs.apply import BagOfModels
    from demucs.hf import load_safetensors_model
    from safetensors import safe_open

    try:
        bag = yaml.safe_load(_file(name, f"{name}.yaml", folder).read_text())
        models = []
        for signature in bag["models"]:
            path = _file(name, f"{Path(str(signature)).name}.safetensors", folder)
            with safe_open(str(path), framework="pt") as file:
                facts = file.metadata() or {}
            # demucs imports whatever class the file names.
            if facts.get("klass") not in _CLASSES or "structure" in facts:
                raise SeparatorError(f"{path.name}: holds {facts.get('klass')}, which is no plain demucs model")
            models.append(load_safetensors_model(path))
        return BagOfModels(models, bag.get("weights"), bag.get("segment")).eval()
    except SeparatorError:
        raise
    except Exception as error:
        raise SeparatorError(
            f"{name}: the stem separator of a melody checkpoint can't be loaded: {error}; "
            f"hint: put its files into a folder {name!r} beside the checkpoint"
        ) from error


@contextlib.contextmanager
def separators(folder: Path) -> Iterator[None]:
    """While it lasts, let AudioCraft's conditioners get their separator from ``load_separator``."""
    from demucs import pretrained

    original = pretrained.get_model
    pretrained.get_model = lambda name, repo=None: load_separator(name, folder)
    try:
        yield
    finally:
        pretrained.get_model = original


def steady(listener: Any) -> None:
    """Let a ``ChromaStemConditioner`` hear the same in the same audio each time.

    demucs shifts its input by chance, from Python's generator for everything; the same request would not give the same
    piece.
    """
    from demucs import apply

    original = listener._get_stemmed_wav

    def stemmed(wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
        with _TURN:
            _SHIFTS.seed(0)
            chance = vars(apply)["random"]
            vars(apply)["random"] = _SHIFTS
            try:
                return torch.as_tensor(original(wav, sample_rate))
            finally:
                vars(apply)["random"] = chance

    listener._get_stemmed_wav = stemmed


def periodic(melody: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Return ``count`` samples of a melody ``[C, T]`` from ``first`` on, repeated without an end.

    This is how AudioCraft gives each window of a long piece its part of the melody.
    """
    return melody[:, torch.arange(first, first + count, device=melody.device) % melody.shape[1]]


def _file(name: str, file: str, folder: Path) -> Path:
    beside = folder / name
    if beside.is_dir():
        return beside / file
    from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(f"{DEFAULT_NAMESPACE}/{hf_repo_name(name)}", file))
