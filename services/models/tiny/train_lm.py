"""Trains the embedded MusicGen: encodes the rendered music with the codec, then trains the language model.

    python -m services.models.tiny.train_lm --codec out/tiny/codec --data out/tiny/data --out out/tiny/lm --minutes 45

Cross-entropy over the delay pattern as in MusicGen (arXiv 2306.05284), the text encoder trained with it. Each
clip gets a new caption each time it is seen; conditions are dropped for classifier-free guidance as the
configuration says. Most batches are ten-second crops; one in four holds twenty seconds, so that every position
which the model claims has been trained. Resumes from ``--out`` when it finds a checkpoint there, and ends with
``state_dict.bin``, ``compression_state_dict.bin`` and the text encoder: a folder that loads by name.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from . import checkpoints, text_encoder
from .compose import Piece

FRAME_RATE_HZ = 50


def encode_all(codec: Path, data: Path, out: Path, device: str, clips: int) -> np.ndarray:
    """Return the codes of the first clips, int16 ``[clips, K, T]``, from ``out`` when they are there already."""
    if out.exists():
        return np.asarray(np.load(out, mmap_mode="r"))
    model = checkpoints.build_codec(device=device)
    state = torch.load(codec / "compression_state_dict.bin", map_location=device, weights_only=True)["best_state"]
    model.load_state_dict(state)
    model.eval()
    audio = np.load(data / "audio.npy", mmap_mode="r")[:clips]
    parts = []
    with torch.inference_mode():
        for first in range(0, len(audio), 4):
            batch = torch.from_numpy(np.array(audio[first : first + 4])).to(device).float().div_(32768.0)[:, None]
            parts.append(model.encode(batch)[0].to(torch.int16).cpu().numpy())
    codes = np.concatenate(parts)
    with checkpoints.replacing(out) as path, path.open("wb") as file:
        np.save(file, codes)
    return codes


class Trainer:
    """One training run: model, optimiser and codes, with its state on disk."""

    def __init__(self, codes: np.ndarray, pieces: list[Piece], out: Path, device: str, batch_frames: int) -> None:
        self.codes, self.pieces, self.out, self.device = codes, pieces, out, device
        self.batch_frames = batch_frames
        folder = out / "text_encoder"
        if not folder.exists():
            text_encoder.build(folder)
        self.model = checkpoints.build_lm(folder, device=device)
        decay = [p for p in self.model.parameters() if p.requires_grad and p.ndim >= 2]
        rest = [p for p in self.model.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
        self.step, self.seconds = 0, 0.0
        if (out / "trainer.pt").exists():
            saved = torch.load(out / "trainer.pt", map_location=device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.seconds = saved["step"], saved["seconds"]
        self.random = np.random.default_rng(self.step)
        self.held_out = min(100, len(codes) // 10)

    def batch(self, seconds: int, size: int, held_out: bool = False) -> tuple[torch.Tensor, list[str]]:
        """Return codes ``[size, K, seconds * 50]`` from the start of random clips, and a fresh caption of each."""
        limit = len(self.codes) - self.held_out
        indices = (
            self.random.integers(limit, len(self.codes), size) if held_out else self.random.integers(0, limit, size)
        )
        captions = [self.pieces[i].caption(int(self.random.integers(1 << 30))) for i in indices]
        codes = np.stack([self.codes[i, :, : seconds * FRAME_RATE_HZ] for i in indices])
        return torch.from_numpy(codes).to(self.device).long(), captions

    def loss(self, codes: torch.Tensor, captions: list[str]) -> torch.Tensor:
        from audiocraft.modules.conditioners import ConditioningAttributes

        attributes = [ConditioningAttributes(text={"description": caption}) for caption in captions]
        with torch.autocast(self.device, torch.bfloat16):
            output = self.model.compute_predictions(codes, attributes)
        logits, mask = output.logits.float(), output.mask
        return functional.cross_entropy(logits[mask], codes[mask])

    def train(self, minutes: float) -> None:
        budget, begin, before = minutes * 60.0, time.monotonic(), self.seconds
        while self.seconds < budget:
            self.seconds = before + time.monotonic() - begin
            progress = min(1.0, self.seconds / budget)
            for group in self.optimiser.param_groups:
                group["lr"] = (
                    1e-3 * min(1.0, (self.step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
                )
            self.model.train()
            seconds = 20 if self.step % 4 == 3 else 10
            loss = self.loss(*self.batch(seconds, max(1, self.batch_frames // (seconds * FRAME_RATE_HZ))))
            self.optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            if self.step % 200 == 0:
                self.report(loss.item())
                self.save()
        self.report(loss.item())
        self.save()

    def report(self, loss: float) -> None:
        """Log the held-out loss, also with the captions of other clips: the text is used when that is worse."""
        self.model.eval()
        self.random = np.random.default_rng(1)
        with torch.inference_mode():
            codes, captions = self.batch(10, 24, held_out=True)
            held_out = self.loss(codes, captions).item()
            shuffled = self.loss(codes, captions[1:] + captions[:1]).item()
        self.random = np.random.default_rng(self.step + 2)
        line = {
            "step": self.step, "minutes": round(self.seconds / 60, 2), "loss": round(loss, 4),
            "held_out": round(held_out, 4), "held_out_shuffled_captions": round(shuffled, 4),
        }  # fmt: skip
        with (self.out / "lm.log").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        with checkpoints.replacing(self.out / "trainer.pt") as path:
            torch.save({**state, "step": self.step, "seconds": self.seconds}, path)
        # The folder of the text encoder is written relative to the checkpoint: it moves with it.
        config = checkpoints.LM_CONFIG % {"text_encoder": "text_encoder"}
        checkpoints.save(self.out / "state_dict.bin", config, self.model.state_dict(), half=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, default=Path("out/tiny/codec"))
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--out", type=Path, default=Path("out/tiny/lm"))
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--clips", type=int, default=3600)
    parser.add_argument("--batch-frames", type=int, default=3000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    codes = encode_all(options.codec, options.data, options.out / "codes.npy", options.device, options.clips)
    fields = Piece.__dataclass_fields__
    with (options.data / "captions.jsonl").open() as file:
        pieces = [Piece(**{k: v for k, v in json.loads(line).items() if k in fields}) for line in file]
    Trainer(codes, pieces, options.out, options.device, options.batch_frames).train(options.minutes)
    shutil.copyfile(options.codec / "compression_state_dict.bin", options.out / "compression_state_dict.bin")


if __name__ == "__main__":
    main()
