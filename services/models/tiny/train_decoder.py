"""Sharpens a codec's decoder against a discriminator; its codes stay what they are.

    python -m services.models.tiny.train_decoder --codec out/tiny/codec --data out/tiny/data --out out/tiny/sharp

Encoder and codebooks are left alone, so that a language model over the codes stays valid, and may be trained at the
same time. The losses are AudioCraft's, weighed by its balancer as EnCodec's are (arXiv 2210.13438): multi-scale mel
distance, an adversarial hinge loss with feature matching from an MS-STFT discriminator, and a little of the waveform's
error, which holds pitch and phase. Needs the codes that ``encode.py`` wrote. Resumes from ``--out`` when it finds a
checkpoint there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from services.models.checkpoint import CODEC_FILE

from . import checkpoints
from .corpus import split

CROP_FRAMES, CONTEXT_FRAMES, BATCH = 32, 10, 8
WEIGHTS = {"waveform": 1.0, "mel": 2.0, "adversarial": 1.0, "features": 2.0}
LEARNING_RATE, WARM_STEPS = 3e-4, 100
REPORT_STEPS = 200


class Trainer:
    """One training run: codec, discriminator and data, with its state on disk."""

    def __init__(self, codec: Path, data: Path, out: Path, device: str) -> None:
        from audiocraft import adversarial, losses

        self.out, self.device = out, device
        package = torch.load(codec / CODEC_FILE, map_location="cpu", weights_only=True)
        self.config = package["xp.cfg"]
        rate = int(OmegaConf.create(self.config).encodec.sample_rate)
        self.model = checkpoints.build_codec(self.config, device)
        self.model.load_state_dict(package["best_state"])
        self.model.eval().requires_grad_(False)
        self.decoder = self.model.decoder.train().requires_grad_(True)
        self.hop = round(rate / self.model.frame_rate)
        self.audio = np.load(data / "audio.npy", mmap_mode="r")
        self.codes = np.load(data / "codes.npy", mmap_mode="r")
        self.mel = losses.MultiScaleMelSpectrogramLoss(
            rate, range_start=6, range_end=11, n_mels=64, f_min=64, normalized=True, alphas=True
        ).to(device)
        discriminator = adversarial.MultiScaleSTFTDiscriminator(filters=8).to(device)
        self.adversary: Any = adversarial.AdversarialLoss(
            discriminator,
            torch.optim.Adam(discriminator.parameters(), lr=LEARNING_RATE, betas=(0.5, 0.9)),
            adversarial.get_adv_criterion("hinge"),
            adversarial.get_real_criterion("hinge"),
            adversarial.get_fake_criterion("hinge"),
            adversarial.FeatureMatchingLoss(),
        )
        self.balancer = losses.Balancer(WEIGHTS)
        self.optimiser = torch.optim.Adam(self.decoder.parameters(), lr=LEARNING_RATE, betas=(0.5, 0.9))
        self.step, self.seconds = 0, 0.0
        if (out / "trainer.pt").exists():
            saved = torch.load(out / "trainer.pt", map_location=device, weights_only=True)
            self.decoder.load_state_dict(saved["decoder"])
            self.adversary.load_state_dict(saved["adversary"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.seconds = saved["step"], saved["seconds"]
        self.random = np.random.default_rng(self.step)

    def batch(self, size: int, held_out: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return codes ``[B, K, CONTEXT + CROP]`` and the audio ``[B, 1, T]`` of the crop; the first clips held out."""
        held = split(len(self.codes))
        done = np.flatnonzero(self.codes[:, 0, 0] >= 0)
        clips = self.random.choice(done[done < held] if held_out else done[done >= held], size)
        starts = self.random.integers(0, self.codes.shape[2] - CONTEXT_FRAMES - CROP_FRAMES, size)
        codes, audio = [], []
        for clip, start in zip(clips, starts, strict=True):
            first = start + CONTEXT_FRAMES
            codes.append(self.codes[clip, :, start : first + CROP_FRAMES])
            audio.append(self.audio[clip, first * self.hop : (first + CROP_FRAMES) * self.hop])
        waves = torch.from_numpy(np.stack(audio)).to(self.device).float().div_(32768.0)[:, None]
        return torch.from_numpy(np.stack(codes)).to(self.device).long(), waves

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the audio of the crops; what comes before only fills the decoder's memory."""
        with torch.no_grad():
            latents = self.model.quantizer.decode(codes)
        audio: torch.Tensor = self.decoder(latents)
        return audio[..., CONTEXT_FRAMES * self.hop : codes.shape[2] * self.hop]

    def train(self, minutes: float, steps: int = 0) -> None:
        """Train until so many minutes, and where it is given so many steps, have been spent in all."""
        budget, begin, before = minutes * 60.0, time.monotonic(), self.seconds
        while self.seconds < budget and not 0 < steps <= self.step:
            self.seconds = before + time.monotonic() - begin
            fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.seconds / budget)))
            for group in self.optimiser.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (self.step + 1) / WARM_STEPS) * (0.05 + 0.95 * fall)
            codes, audio = self.batch(BATCH)
            output = self.decode(codes)
            self.adversary.train_adv(output, audio)
            adversarial, features = self.adversary(output, audio)
            losses = {
                "waveform": waveform_error(output, audio), "mel": self.mel(output, audio),
                "adversarial": adversarial, "features": features,
            }  # fmt: skip
            self.optimiser.zero_grad()
            self.balancer.backward(losses, output)
            self.optimiser.step()
            self.step += 1
            if self.step % REPORT_STEPS == 0:
                self.report(losses)
                self.save()
        self.save()

    def report(self, losses: dict[str, torch.Tensor]) -> None:
        self.random = np.random.default_rng(1)
        codes, audio = self.batch(32, held_out=True)
        self.random = np.random.default_rng(self.step + 2)
        with torch.no_grad():
            output = self.decode(codes)
        line = {
            "step": self.step, "minutes": round(self.seconds / 60, 2),
            **{name: round(float(loss), 4) for name, loss in losses.items()},
            "held_out_mel": round(float(self.mel(output, audio)), 4),
            "held_out_waveform": round(float(waveform_error(output, audio)), 4),
        }  # fmt: skip
        with (self.out / "decoder.log").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        state = {
            "decoder": self.decoder.state_dict(), "adversary": self.adversary.state_dict(),
            "optimiser": self.optimiser.state_dict(), "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        with checkpoints.replacing(self.out / "trainer.pt") as path:
            torch.save(state, path)
        checkpoints.save(self.out / CODEC_FILE, self.config, self.model.state_dict())


def waveform_error(output: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    """Return the root of the error's energy over the signal's, the mean over ``[B, 1, T]``."""
    return ((output - audio).square().mean((1, 2)) / (audio.square().mean((1, 2)) + 1e-3)).sqrt().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, default=Path("out/tiny/codec"))
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--out", type=Path, default=Path("out/tiny/sharp"))
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many, whatever the time (default: never)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    Trainer(options.codec, options.data, options.out, options.device).train(options.minutes, options.steps)


if __name__ == "__main__":
    main()
