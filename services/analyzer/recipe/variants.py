"""Small autoencoders and vocoders of several architectures, trained for minutes: what a detector should also know.

    python -m services.analyzer.recipe.variants --minutes 3

No one's weights are needed. Each variant is a decoder as published models build it (transposed convolutions with
residual units, periodic activations, an inverse STFT), over a latent that is rounded to a drawn number of levels, or
not at all, as language models and diffusion models use them. Two states of each are kept: early, at a third of its
training, and final.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from services.analyzer.recipe.architectures import ARCHITECTURES, VARIANTS, Variant, round_latent
from services.models.tiny.train_codec import unit_variance_initialisation

FOLDER = Path("out/analyzer/variants")
_BATCH, _SECONDS = 8, 0.6
_LEARNING_RATE = 8e-4
_EARLY = 1 / 3
LEVELS = (0, 4, 8, 16, 32)
"""Levels that a latent value may be rounded to; 0 leaves it as it is."""


def build(variant: Variant) -> Any:
    """Return an untrained network with `encoder` (``[B, 1, T]`` to latents) and `decoder` (back)."""
    return ARCHITECTURES[variant.architecture](variant)


def load(name: str, state: str, folder: Path = FOLDER) -> Any:
    """Return a trained variant, ready to decode. `state` is "early" or "final". Raises `FileNotFoundError`."""
    variant = VARIANTS[name]
    model = build(variant)
    model.load_state_dict(torch.load(folder / f"{name}.{state}.pt", weights_only=True))
    return model.eval()


@torch.inference_mode()
def reconstruct(model: Any, audio: torch.Tensor, levels: int) -> torch.Tensor:
    """Return mono ``[B, 1, T]`` after encoder, rounding to `levels`, and decoder; the same length."""
    output = model.decoder(round_latent(model.encoder(audio), levels) if model.rounds else model.encoder(audio))
    missing = max(0, audio.shape[-1] - output.shape[-1])
    return torch.nn.functional.pad(output, (0, missing))[..., : audio.shape[-1]]


class VariantTraining:
    """One short training on segments of real audio ``[N, T]`` (int16) at the variant's rate."""

    def __init__(self, variant: Variant, audio: np.ndarray) -> None:
        from audiocraft.losses import MultiScaleMelSpectrogramLoss

        torch.manual_seed(variant.seed)
        self.variant, self.audio = variant, audio
        self.random = np.random.default_rng(variant.seed)
        self.model = build(variant)
        if variant.orthogonal_start:
            unit_variance_initialisation(self.model, self.batch(16))
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=_LEARNING_RATE, betas=(0.8, 0.99))
        self.mel = MultiScaleMelSpectrogramLoss(
            24_000, range_start=6, range_end=11, n_mels=64, f_min=64, normalized=True, alphas=True
        )

    def batch(self, size: int = _BATCH) -> torch.Tensor:
        """Return ``[size, 1, T]`` random crops at random gains."""
        length = round(_SECONDS * 24_000)
        rows = self.random.integers(0, len(self.audio), size)
        starts = self.random.integers(0, self.audio.shape[1] - length, size)
        parts = [self.audio[row, start : start + length] for row, start in zip(rows, starts, strict=True)]
        gains = torch.from_numpy(10 ** (self.random.uniform(-12, 3, (size, 1, 1)) / 20)).float()
        return torch.from_numpy(np.stack(parts)).float().div_(32768.0)[:, None] * gains

    def step(self) -> float:
        """Take one step; return the loss."""
        audio = self.batch()
        latents = self.model.encoder(audio)
        if self.model.rounds:
            latents = round_latent(latents, int(self.random.choice(LEVELS)))
        output = self.model.decoder(latents)[..., : audio.shape[-1]]
        audio = audio[..., : output.shape[-1]]
        loss = self.variant.mel_weight * self.mel(output, audio)
        if self.variant.waveform_weight:
            error = (output - audio).pow(2).mean((1, 2)) / (audio.pow(2).mean((1, 2)) + 1e-4)
            loss = loss + self.variant.waveform_weight * error.sqrt().mean()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())


def train(variant: Variant, audio: np.ndarray, seconds: float, folder: Path = FOLDER) -> None:
    """Train one variant for `seconds` of this process's CPU time and write both its states."""
    folder.mkdir(parents=True, exist_ok=True)
    training = VariantTraining(variant, audio)
    begin, steps, losses, early = time.process_time(), 0, [0.0], False
    while (spent := time.process_time() - begin) < seconds:
        for group in training.optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * min(1.0, (steps + 1) / 50) * max(0.05, 1 - spent / seconds)
        losses.append(training.step())
        steps += 1
        if not early and spent > seconds * _EARLY:
            torch.save(training.model.state_dict(), folder / f"{variant.name}.early.pt")
            early = True
    torch.save(training.model.state_dict(), folder / f"{variant.name}.final.pt")
    report = {"variant": dataclasses.asdict(variant), "steps": steps, "loss": round(float(np.mean(losses[-50:])), 4)}
    (folder / f"{variant.name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({"variant": variant.name, "steps": steps, "loss": report["loss"]}), flush=True)


def main() -> None:
    from services.analyzer.recipe import segments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU time of each")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    audio = segments.load("training")
    for name in options.only:
        if not (FOLDER / f"{name}.final.pt").exists():
            train(VARIANTS[name], audio, options.minutes * 60)


if __name__ == "__main__":
    main()
