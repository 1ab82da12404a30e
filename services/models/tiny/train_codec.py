r"""Trains an embedded EnCodec on rendered audio.

    python -m services.models.tiny.train_codec --data out/tiny/data --out out/tiny/codec --minutes 150
    python -m services.models.tiny.train_codec --kind sound --data out/tiny/sounds --out out/tiny/sound_codec \
        --start out/tiny/codec --minutes 25

Loss: square root of the normalised squared error + 0.15 multi-scale mel distance (AudioCraft's) + 0.25
commitment. Orthogonal layers scaled to unit variance one after the other (Mishkin and Matas, arXiv
1511.06422) and a start without quantisation, with little weight on the mel distance, let the network learn the
waveform itself: without them it learns a spectrum without pitch. k-means on many frames then starts the
codebooks, and codes that die are revived from the batch. Resumes from ``--out`` when it finds a checkpoint there.
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
from torch import nn

from services.models.checkpoint import CODEC_FILE

from . import checkpoints
from .corpus import split

CONFIGS = {"music": (checkpoints.CODEC_CONFIG, 32_000, 0.15), "sound": (checkpoints.SOUND_CODEC_CONFIG, 16_000, 0.3)}
"""Configuration, sample rate, and weight of the mel distance: what is mostly noise has no waveform to learn."""
SEGMENT_SECONDS = 0.5
UNQUANTISED_STEPS = 600
LEARNING_RATE = 6e-4


def unit_variance_initialisation(model: nn.Module, audio: torch.Tensor) -> None:
    """Make each convolution orthogonal, then scale it, in order of the forward pass, to unit output variance.

    The last one is scaled to a hundredth, so that training starts at silence and not at noise.
    """
    convolutions: list[Any] = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    for convolution in convolutions:
        nn.init.orthogonal_(convolution.weight_v)
        convolution.weight_g.data.copy_(convolution.weight_v.norm(dim=(1, 2), keepdim=True))
        nn.init.zeros_(convolution.bias)

    def rescale(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        scale = (0.01 if module is convolutions[-1] else 1.0) / (output.std() + 1e-6)
        module.weight_g.data.mul_(scale)
        return output * scale

    handles = [convolution.register_forward_hook(rescale) for convolution in convolutions]
    with torch.no_grad():
        model.decoder(model.encoder(audio))  # type: ignore[operator]
    for handle in handles:
        handle.remove()


def k_means(points: torch.Tensor, clusters: int, iterations: int = 30) -> torch.Tensor:
    """Return ``[clusters, D]`` centres of ``[N, D]`` points; an empty cluster restarts at a random point."""
    centres = points[torch.randperm(len(points))[:clusters]].clone()
    for _ in range(iterations):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        counts = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = counts == 0
        centres[empty] = points[torch.randint(len(points), (int(empty.sum()),))]
    return centres


class Trainer:
    """One training run: model, optimiser and data, with its state on disk."""

    def __init__(self, data: Path, out: Path, device: str, kind: str = "music", start: Path | None = None) -> None:
        self.audio = np.load(data / "audio.npy", mmap_mode="r")
        self.out, self.device = out, device
        self.config, rate, self.mel_weight = CONFIGS[kind]
        self.segment = round(SEGMENT_SECONDS * rate)
        self.model = checkpoints.build_codec(self.config, device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
        self.random = np.random.default_rng(0)
        self.step, self.seconds = 0, 0.0
        from audiocraft.losses import MultiScaleMelSpectrogramLoss

        self.mel = MultiScaleMelSpectrogramLoss(
            rate, range_start=6, range_end=11, n_mels=64, f_min=64, normalized=True, alphas=True
        ).to(device)
        if (out / "trainer.pt").exists():
            saved = torch.load(out / "trainer.pt", map_location=device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.seconds = saved["step"], saved["seconds"]
            self.random = np.random.default_rng(self.step)
        elif start is not None:
            self.take_over(start)
        else:
            unit_variance_initialisation(self.model, self.batch(16))

    def batch(self, size: int, held_out: bool = False) -> torch.Tensor:
        """Return ``[size, 1, samples]`` random segments; the first clips are held out."""
        held = split(len(self.audio))
        clips = self.random.integers(0, held, size) if held_out else self.random.integers(held, len(self.audio), size)
        starts = self.random.integers(0, self.audio.shape[1] - self.segment, size)
        parts = [self.audio[c, s : s + self.segment] for c, s in zip(clips, starts, strict=True)]
        return torch.from_numpy(np.stack(parts)).to(self.device).float().div_(32768.0)[:, None]

    def take_over(self, codec: Path) -> None:
        """Begin with the weights of another codec, as many as fit: all but those of another stride or kernel."""
        state = torch.load(codec / CODEC_FILE, map_location=self.device, weights_only=True)["best_state"]
        own = self.model.state_dict()
        fitting = {name: tensor for name, tensor in state.items() if tensor.shape == own[name].shape}
        self.model.load_state_dict(fitting, strict=False)
        self.step = UNQUANTISED_STEPS + 1  # its codebooks need no start either

    def start_codebooks(self) -> None:
        """Start each residual codebook by k-means on what the ones before it left over."""
        self.model.eval()
        with torch.no_grad():
            latents = torch.cat([self.model.encoder(self.batch(16)) for _ in range(20)])
            residual = latents.transpose(1, 2).reshape(-1, latents.shape[1])
            for layer in self.model.quantizer.vq.layers:
                book = layer._codebook
                centres = k_means(residual, book.codebook_size)
                for buffer in (book.embed, book.embed_avg):
                    buffer.copy_(centres)
                book.cluster_size.fill_(1.0)
                residual = residual - centres[torch.cdist(residual, centres).argmin(dim=1)]

    def revive_dead_codes(self, latents: torch.Tensor) -> int:
        """Move codes that hardly anything maps to onto residuals of this batch; return how many.

        AudioCraft's own revival is undone by the moving average of the same forward pass, so the average and
        the cluster size are moved as well.
        """
        residual = latents.detach().transpose(1, 2).reshape(-1, latents.shape[1])
        revived = 0
        with torch.no_grad():
            for layer in self.model.quantizer.vq.layers:
                book = layer._codebook
                dead = book.cluster_size < 0.03
                count = int(dead.sum())
                if count:
                    fresh = residual[torch.randint(len(residual), (count,), device=residual.device)]
                    book.embed[dead], book.embed_avg[dead], book.cluster_size[dead] = fresh, fresh, 1.0
                    revived += count
                residual = residual - book.embed[torch.cdist(residual, book.embed).argmin(dim=1)]
        return revived

    def train(self, minutes: float, steps: int = 0) -> None:
        """Train until so many minutes, and where it is given so many steps, have been spent in all."""
        budget, begin, before = minutes * 60.0, time.monotonic(), self.seconds
        while self.seconds < budget and not 0 < steps <= self.step:
            self.seconds = before + time.monotonic() - begin
            progress = min(1.0, self.seconds / budget)
            for group in self.optimiser.param_groups:
                group["lr"] = (
                    LEARNING_RATE
                    * min(1.0, (self.step + 1) / 100)
                    * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))
                )
            if self.step == UNQUANTISED_STEPS:
                self.start_codebooks()
            self.model.train()
            audio = self.batch(8)
            latents = self.model.encoder(audio)
            commitment = torch.zeros((), device=self.device)
            decoder_input = latents
            if self.step >= UNQUANTISED_STEPS:
                result = self.model.quantizer(latents, 50)
                decoder_input, commitment = result.x, result.penalty
                if self.step % 20 == 0:
                    self.revive_dead_codes(latents)
            output = self.model.decoder(decoder_input)
            error = ((output - audio).pow(2).mean((1, 2)) / (audio.pow(2).mean((1, 2)) + 1e-3)).sqrt().mean()
            mel = self.mel(output, audio)
            mel_weight = 0.05 if self.step < UNQUANTISED_STEPS else self.mel_weight
            loss = error + mel_weight * mel + 0.25 * commitment
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            if self.step % 250 == 0:
                self.report(float(loss))
                self.save()
        self.report(float(loss))
        self.save()

    def report(self, loss: float) -> None:
        self.model.eval()
        with torch.no_grad():
            audio = self.batch(32, held_out=True)
            codes, _ = self.model.encode(audio)
            output = self.model.decode(codes)[..., : audio.shape[-1]]
        scale = (output * audio).sum(-1, keepdim=True) / audio.pow(2).sum(-1, keepdim=True).clamp(min=1e-8)
        ratio = (scale * audio).pow(2).sum(-1) / (output - scale * audio).pow(2).sum(-1).clamp(min=1e-8)
        perplexities = []
        for k in range(codes.shape[1]):
            p = torch.bincount(codes[:, k].flatten(), minlength=512).float()
            p = p / p.sum()
            perplexities.append(round(float(torch.exp(-(p * (p + 1e-9).log()).sum()))))
        line = {
            "step": self.step, "minutes": round(self.seconds / 60, 2), "loss": round(loss, 4),
            "held_out_mel": round(float(self.mel(output, audio)), 4),
            "held_out_si_sdr_db": round(float((10 * ratio.log10()).median()), 2),
            "code_perplexity": perplexities,
        }  # fmt: skip
        with (self.out / "codec.log").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        with checkpoints.replacing(self.out / "trainer.pt") as path:
            torch.save({**state, "step": self.step, "seconds": self.seconds}, path)
        checkpoints.save(self.out / CODEC_FILE, self.config, self.model.state_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--out", type=Path, default=Path("out/tiny/codec"))
    parser.add_argument("--start", type=Path, help="folder of a codec to begin with (default: random weights)")
    parser.add_argument("--kind", choices=CONFIGS, default="music")
    parser.add_argument("--minutes", type=float, default=150.0)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many, whatever the time (default: never)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    Trainer(options.data, options.out, options.device, options.kind, options.start).train(
        options.minutes, options.steps
    )


if __name__ == "__main__":
    main()
