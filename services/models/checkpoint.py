"""The files of AudioCraft checkpoints: found by name, and read without running what may be in them.

A checkpoint is what AudioCraft exports: ``state_dict.bin`` (the language model) and ``compression_state_dict.bin``
(the codec, or only the name of a pretrained one). Files are unpickled with ``weights_only``: whatever else they hold
is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

LM_FILE = "state_dict.bin"
CODEC_FILE = "compression_state_dict.bin"
EMBEDDED = {"tiny": Path(__file__).parent / "tiny" / "music", "tiny-sound": Path(__file__).parent / "tiny" / "sound"}


class CheckpointError(Exception):
    """A checkpoint that can't be loaded; the message says which file, what is wrong with it and what to do."""


class UnknownModel(CheckpointError):
    """A name that is no embedded model, no folder and no Hugging Face id that can be fetched."""


def find(name: str, files: tuple[str, ...]) -> Path:
    """Return the folder that holds the files, fetching them from the hub when the name is an id."""
    folder = EMBEDDED.get(name, Path(name))
    if name and folder.is_dir():  # Path("") would be the working directory
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise CheckpointError(
                f"{name}: no {missing[0]} in the folder; hint: export it with audiocraft.utils.export"
            )
        return folder
    if name in EMBEDDED or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UnknownModel(f"{name}: no such folder, and not an embedded model ({', '.join(EMBEDDED)}) or a hub id")
    from huggingface_hub import hf_hub_download

    try:
        paths = [Path(hf_hub_download(repo_id=name, filename=file)) for file in files]
    except Exception as error:
        raise UnknownModel(f"{name}: can't be fetched from the Hugging Face hub: {error}") from error
    return paths[0].parent


def read(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint; ``mapped`` leaves its tensors on the disk, where its format lets them be."""
    try:
        mapped = mapped and zipfile.is_zipfile(path)
        package = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name}: holds more than tensors and plain values, and is refused because it could run code; "
            "hint: export it with audiocraft.utils.export, which stores the configuration as text"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{path.name}: is not a readable checkpoint: {error}") from error
    if not isinstance(package, dict):
        raise CheckpointError(f"{path.name}: holds a {type(package).__name__}, not an AudioCraft export")
    return package


def config_of(package: dict[str, Any], path: Path) -> DictConfig:
    """Return the configuration in what `read` read from the path."""
    if not isinstance(package.get("xp.cfg"), str | dict) or not isinstance(package.get("best_state"), dict):
        raise CheckpointError(f"{path.name}: no 'xp.cfg' and 'best_state' in it: not an AudioCraft export")
    try:
        config = OmegaConf.create(package["xp.cfg"])
    except Exception as error:
        raise CheckpointError(f"{path.name}: its configuration is not YAML: {error}") from error
    if not isinstance(config, DictConfig):
        raise CheckpointError(f"{path.name}: its configuration is not a mapping")
    return config


def is_transformers(folder: str) -> bool:
    """Return whether a folder holds a model of transformers and no checkpoint of AudioCraft."""
    return (Path(folder) / "config.json").is_file() and not (Path(folder) / CODEC_FILE).is_file()
