"""MultiBandDiffusion (arXiv 2308.02560): a second decoder, from AudioCraft's checkpoints, with seeded noise.

A file `mbd_*.th` or `mbd_*.pt` beside a codec's checkpoint is loaded with it; the codecs for which Meta trained some
find theirs on the hub, as AudioCraft's `get_mbd_24khz` and `get_mbd_musicgen` do. `mbd_comp_N.pt` was trained for N
codebooks and serves those only; any other name serves all. The files hold configurations as pickled OmegaConf
objects: these classes are let through, and nothing else than them, tensors and plain values.
"""

from __future__ import annotations

import collections
import logging
import pickle
import re
import threading
import typing
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf, base, nodes
from torch import nn

from services.models.checkpoint import CheckpointError

HUB = "facebook/multiband-diffusion"
_HUB_FILES = {
    "facebook/encodec_24khz": ("mbd_comp_2.pt", "mbd_comp_4.pt", "mbd_comp_8.pt"),
    "facebook/encodec_32khz": ("mbd_musicgen_32khz.th",),
}
"""By codec, the files of ``HUB``. The mono MusicGen checkpoints have the second codec."""
_TRAINED_FOR = re.compile(r"mbd_comp_(\d+)")
_SAFE = [
    DictConfig,
    ListConfig,
    base.ContainerMetadata,
    base.Metadata,
    nodes.AnyNode,
    nodes.IntegerNode,
    nodes.FloatNode,
    nodes.StringNode,
    nodes.BooleanNode,
    collections.defaultdict,
    typing.Any,
    dict,
    list,
    int,
    float,
    str,
    bool,
]


_log = logging.getLogger("antiphon.models")


class Stopped(Exception):
    """The caller has gone."""


class _Watched(nn.Module):
    """A diffusion model that looks at each step whether anybody still waits."""

    def __init__(self, model: nn.Module, stopped: threading.Event) -> None:
        super().__init__()
        self._model, self._stopped = model, stopped

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._stopped.is_set():
            raise Stopped
        return self._model(*args, **kwargs)


class Diffusion:
    """The diffusion models of one checkpoint over one codec. ``codebook_count`` is 0 where any number will do."""

    def __init__(self, path: Path, codec: Any, device: str) -> None:
        from audiocraft.models import builders
        from audiocraft.modules.diffusion_schedule import NoiseSchedule

        package = _read(path)
        trained_for = _TRAINED_FOR.match(path.name)
        self.codebook_count = int(trained_for[1]) if trained_for else 0
        self._codec, self._bands = codec, []
        try:
            rate = int(package["sample_rate"])
            for band in range(int(package["n_bands"])):
                config = OmegaConf.create(package[band]["cfg"])
                model = builders.get_diffusion_model(config)
                model.load_state_dict(package[band]["model_state"])
                processor = builders.get_processor(cfg=config.processor, sample_rate=rate)
                processor.load_state_dict(package[band]["processor_state"])
                processor.to(device).eval()
                schedule = NoiseSchedule(**config.schedule, sample_processor=processor, device=device)
                self._bands.append((model.to(device).eval(), schedule))
        except Exception as error:
            raise CheckpointError(f"{path.name}: is not a MultiBandDiffusion checkpoint: {error}") from error
        if rate != int(codec.sample_rate):
            raise CheckpointError(f"{path.name}: is for {rate} Hz, its codec is for {int(codec.sample_rate)}")

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor, seed: int, stopped: threading.Event) -> torch.Tensor:
        """Return float32 ``[C, T]`` of codes ``[K, n]``. Raises `Stopped` when the event is set."""
        from audiocraft.models.multibanddiffusion import DiffusionProcess, MultiBandDiffusion

        processes = [DiffusionProcess(_Watched(model, stopped), schedule) for model, schedule in self._bands]
        diffusion = MultiBandDiffusion(processes, self._codec)
        devices = [codes.device] if codes.device.type == "cuda" else []
        # AudioCraft draws from PyTorch's one generator; nothing else in this process does.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed % (1 << 63))
            audio: torch.Tensor = diffusion.tokens_to_wav(codes[None])[0]
        return audio


def load_diffusions(name: str, codec: Any, device: str) -> list[Diffusion]:
    """Load what lies beside a codec, or belongs to it on the hub.

    Args:
        name: a folder, or an id of the hub. What can't be fetched is left out, and logged.

    Raises:
        CheckpointError: a file is there and can't be loaded.
    """
    folder = Path(name)
    if folder.is_dir():
        files = sorted(path for path in folder.glob("mbd_*") if path.suffix in (".th", ".pt"))
    else:
        files = _fetched(name, codec)
    return [Diffusion(path, codec, device) for path in files]


def _fetched(name: str, codec: Any) -> list[Path]:
    from huggingface_hub import hf_hub_download

    if name.startswith("facebook/musicgen-") and int(codec.channels) == 1:
        name = "facebook/encodec_32khz"
    try:
        return [Path(hf_hub_download(repo_id=HUB, filename=file)) for file in _HUB_FILES.get(name, ())]
    except Exception as error:
        _log.warning("MultiBandDiffusion can't be fetched", extra={"model": name, "reason": str(error)})
        return []


def _read(path: Path) -> dict[Any, Any]:
    try:
        with torch.serialization.safe_globals(_SAFE):
            package = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path.name}: holds more than tensors and settings, and is refused") from error
    except Exception as error:
        raise CheckpointError(f"{path.name}: is not a readable checkpoint: {error}") from error
    if not isinstance(package, dict):
        raise CheckpointError(f"{path.name}: holds a {type(package).__name__}, not a MultiBandDiffusion checkpoint")
    return package
