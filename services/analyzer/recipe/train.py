"""Trains the discriminators as classifiers: real audio against what decoders make of the same audio.

    python -m services.analyzer.recipe.train --minutes 42

Each sub-discriminator learns by itself: binary cross-entropy of the mean logit over a crop of half a second. A batch
holds both halves of each pair, cut at the same place, so that nothing but the decoder tells them apart; each row has
a gain, a sign and sometimes a faint noise of its own. What is kept is a moving average of the weights. Goes on from its
checkpoint, and takes in shards that were made meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from services.analyzer.recipe import networks, pairs
from services.models.calibration import FAMILIES
from services.models.tiny.checkpoints import replacing

FOLDER = Path("out/analyzer/training")
_PAIRS_A_BATCH = 12
_ROWS_AT_ONCE = 4
"""More do not fit into a core's cache."""
_CROP = 12_000
_LEARNING_RATE = 3e-3
_AVERAGING = 0.99
_CHANGED_SHARE = 0.5
_REPORT_STEPS = 50


def scale_to_unit_variance(network: nn.Module, audio: torch.Tensor) -> None:
    """Scale each convolution, in order of the forward pass, to unit variance on ``[B, 1, T]``; biases become 0.

    Six layers at PyTorch's start shrink quiet audio to nothing, and hundreds of steps pass before anything is learnt.
    """

    def rescale(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        scale = 1.0 / (output.std() + 1e-6)
        # AudioCraft's first STFT layer has no weight norm.
        getattr(module, "weight_g", module.weight).data.mul_(scale)
        return output * scale

    convolutions: list[Any] = [module for module in network.modules() if isinstance(module, nn.Conv1d | nn.Conv2d)]
    for convolution in convolutions:
        nn.init.zeros_(convolution.bias)
    handles = [convolution.register_forward_hook(rescale) for convolution in convolutions]
    with torch.no_grad():
        network(audio)
    for handle in handles:
        handle.remove()


class Training:
    """One family's run: networks, their average, optimiser and data, with its state on disk."""

    def __init__(self, family: str, folder: Path = FOLDER, data: Path = pairs.FOLDER, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.family, self.path, self.data = family, folder / f"{family}.pt", data
        self.network = networks.build_family(family, networks.SHAPES[family])
        self.average = networks.build_family(family, networks.SHAPES[family])
        self.average.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.99))
        self.step, self.seconds = 0, 0.0
        self.random = np.random.default_rng([seed, 0])
        self.shards: list[np.ndarray] = []
        self.losses: list[np.ndarray] = []
        self.right: list[np.ndarray] = []
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            self.network.load_state_dict(saved["network"])
            self.average.load_state_dict(saved["average"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.seconds = saved["step"], saved["seconds"]
            self.random = np.random.default_rng([seed, self.step])

    def find_shards(self) -> None:
        """Open the shards that are there. Raises `FileNotFoundError` when there is none."""
        paths = sorted(self.data.glob("*.npy"))
        if not paths:
            raise FileNotFoundError(f"no shards in {self.data}: run python -m services.analyzer.recipe.pairs first")
        self.shards = [np.load(path, mmap_mode="r") for path in paths]

    def batch(self, changed_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return audio ``[2 P, 1, T]`` and labels ``[2 P]``, 1 for real, pair by pair."""
        random, rows = self.random, []
        for _ in range(_PAIRS_A_BATCH):
            shard = self.shards[int(random.integers(len(self.shards)))]
            pair = shard[int(random.integers(len(shard)))]
            start = int(random.integers(pair.shape[-1] - _CROP + 1))
            changed = int(random.random() < changed_share)
            for half in pair[:, changed, start : start + _CROP].astype(np.float32) / 32768.0:
                wave = half * random.choice([-1.0, 1.0]) * 10 ** (random.uniform(-8, 4) / 20)
                if random.random() < 0.15:
                    wave = wave + random.standard_normal(_CROP) * 10 ** (random.uniform(-80, -50) / 20)
                rows.append(wave.clip(-1, 1).astype(np.float32))
        labels = torch.tensor([1.0, 0.0]).repeat(_PAIRS_A_BATCH)
        return torch.from_numpy(np.stack(rows))[:, None], labels

    def update(self, learning_rate: float, changed_share: float = _CHANGED_SHARE) -> np.ndarray:
        """Take one step; return the loss of each sub-discriminator."""
        if not self.step:
            scale_to_unit_variance(self.network, self.batch(0.0)[0])
            self.average.load_state_dict(self.network.state_dict())
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (self.step + 1) / 20)
        audio, labels = self.batch(changed_share)
        self.optimiser.zero_grad()
        losses, right = torch.zeros(self.network.num_discriminators), torch.zeros(self.network.num_discriminators)
        for rows, real in zip(*(torch.split(whole, _ROWS_AT_ONCE) for whole in (audio, labels)), strict=True):
            logits = networks.family_logits(self.network, rows)
            targets = real[:, None].expand_as(logits)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            loss = loss.sum(dim=0) / len(audio)
            torch.autograd.backward(loss.sum())
            losses += loss.detach()
            right += ((logits > 0) == (targets > 0.5)).float().sum(dim=0) / len(audio)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        with torch.no_grad():
            keep = min(_AVERAGING, self.step / (self.step + 10))
            for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)
        self.losses.append(losses.numpy())
        self.right.append(right.numpy())
        return self.losses[-1]

    def report(self) -> str:
        """Return a line on the steps since the last report: losses and shares of right answers."""
        line = {
            "family": self.family, "step": self.step, "minutes": round(self.seconds / 60, 1),
            "shards": len(self.shards), "loss": np.mean(self.losses, axis=0).round(3).tolist(),
            "right": np.mean(self.right, axis=0).round(3).tolist(),
        }  # fmt: skip
        self.losses, self.right = [], []
        return json.dumps(line)

    def save(self) -> None:
        """Write the checkpoint, complete or not at all."""
        state = {
            "network": self.network.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        with replacing(self.path) as path:
            torch.save(state, path)


def train(families: Sequence[str], minutes: float, folder: Path = FOLDER, data: Path = pairs.FOLDER) -> None:
    """Train families step by step in turn until the run of each has had `minutes`, and log to the folder.

    Raises `FileNotFoundError` when there is nothing to train on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = [Training(family, folder, data) for family in families]
    budget, begin, before = minutes * 60, time.monotonic(), max(run.seconds for run in runs)
    seconds = before
    while seconds < budget:
        rate = _LEARNING_RATE * (0.02 + 0.49 * (1 + math.cos(math.pi * seconds / budget)))
        for run in runs:
            if run.step % _REPORT_STEPS == 0 or not run.shards:
                run.find_shards()
            # What is changed is harder to tell apart: it comes when the plain traces are known.
            run.update(rate, _CHANGED_SHARE * min(1.0, 3 * seconds / budget))
        seconds = before + time.monotonic() - begin
        for run in runs:
            run.seconds = seconds
            if run.step % _REPORT_STEPS == 0 or seconds >= budget:
                line = run.report()
                print(line, flush=True)
                with (folder / "training.log").open("a") as file:
                    file.write(line + "\n")
                run.save()


def trained(folder: Path = FOLDER) -> nn.ModuleDict:
    """Return the averaged networks of a run. Raises `FileNotFoundError`."""
    average = networks.build(networks.SHAPES)
    for family, network in average.items():
        network.load_state_dict(torch.load(folder / f"{family}.pt", weights_only=True)["average"])
    return average.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each family's run, by the clock")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    options = parser.parse_args()
    train(options.families, options.minutes)


if __name__ == "__main__":
    main()
