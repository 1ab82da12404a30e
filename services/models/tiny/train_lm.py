r"""Trains an embedded language model on the codes of rendered audio, behind a text encoder that captions taught.

    python -m services.models.tiny.train_lm --codec out/tiny/codec --data out/tiny/data \
        --openings out/tiny/openings --out out/tiny/lm --minutes 80
    python -m services.models.tiny.train_lm --kind sound --codec out/tiny/sound_codec --data out/tiny/sounds \
        --out out/tiny/sound_lm --minutes 30

Cross-entropy over the delay pattern as in MusicGen (arXiv 2306.05284). Each clip gets a new caption each time it is
seen; conditions are dropped for classifier-free guidance as the configuration says. What two cores need for it to come
far in an hour:

- the text encoder knows what captions say before it meets audio, and stays as it is;
- codes start with vectors that are projections of the codec's own, so that like codes are alike from the first step;
- the matrices of the layers are trained by Muon (Jordan et al. 2024; torch's), all else by AdamW;
- the first codebooks, which say most of what is heard, weigh more;
- openings, short clips of many more pieces, teach what the text decides: the tempo of a piece is told once, by its
  second beat, and 3,000 pieces are soon known by heart;
- a second head tells from the same vectors how many frames it is to the next half beat. Of the codes' loss the tempo
  is a hundredth; of this one it is all, and every frame counts;
- some of the codes it is given are wrong, as some of its own will be;
- crops are short at first; later ones are as long as the model claims, so that every position has been trained;
- what is written in the end is a running mean of the weights.

Clips that have no codes yet are left out until they have. Resumes from ``--out`` when it finds a checkpoint there, and
ends with ``state_dict.bin``, ``compression_state_dict.bin`` and the text encoder: a folder that loads by name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from services.models.checkpoint import CODEC_FILE, LM_FILE

from . import checkpoints
from .beginnings import build_text_encoder, plain_attention, start_codes_alike
from .corpus import FRAME_RATE_HZ, LONGEST_HALF_BEAT, Corpus, Music, Sounds, split

CODEBOOK_WEIGHTS = (0.4, 0.28, 0.18, 0.14)
CROP_SECONDS = ((2.0, 2.0, 2.0, 5.0, 10.0), (2.0, 2.0, 5.0, 2.0, 10.0, 2.0, 20.0))
"""Of each batch in turn, in the first and in the second half of the training. What the text decides is settled in the
first beats; what comes later can be told from what was heard. Short crops hold more of the former."""
CLOCK_WEIGHT = 0.5
WRONG_SHARE = 0.25
"""Of the codes that the model is given, at most. What it samples is never quite what a codec would have made: a model
that has only seen the codec's own codes loses the beat, and itself, over the first that are not."""
MEAN_DECAY = 0.998
REPORT_STEPS = 250


class Trainer:
    """One training run: model, optimisers and codes, with its state on disk."""

    def __init__(
        self,
        corpus: Corpus,
        codec: Path,
        out: Path,
        device: str,
        batch_frames: int,
        config: str,
        rate: float,
        openings: Corpus | None = None,
    ) -> None:
        self.corpus, self.openings, self.out, self.device = corpus, openings, out, device
        self.batch_frames, self.config, self.rate = batch_frames, config, rate
        self.model = checkpoints.build_lm(out / "text_encoder", plain_attention(config, device), device)
        start_codes_alike(self.model, codec)
        # What the text encoder was taught is lost at a language model's learning rate, and is enough.
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(".t5." not in name)
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        layers = {name for name, p in parameters.items() if name.startswith("transformer.layers.") and p.ndim == 2}
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                [parameters[name] for name in sorted(layers)],
                lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [p for name, p in parameters.items() if name not in layers],
                lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True,
            ),
        ]  # fmt: skip
        self.clock = nn.Linear(self.model.dim, LONGEST_HALF_BEAT, device=device)
        self.optimisers.append(torch.optim.AdamW(self.clock.parameters(), lr=rate))
        self.model.out_norm.register_forward_hook(self._keep)
        self._hidden: torch.Tensor | None = None
        self.step, self.seconds = 0, 0.0
        self.mean = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        if (out / "trainer.pt").exists():
            saved = torch.load(out / "trainer.pt", map_location=device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.clock.load_state_dict(saved["clock"])
            for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.mean, self.step, self.seconds = saved["mean"], saved["step"], saved["seconds"]
        self.random = np.random.default_rng(self.step)
        self.held_out = split(len(corpus.codes))
        self.ready = [np.zeros(0, dtype=np.int64)]

    def batch(self, seconds: float, held_out: bool = False) -> tuple[torch.Tensor, list[str], list[int]]:
        """Return codes ``[B, K, seconds * 50]`` of clips, and of each a new caption and half a beat in frames."""
        corpus, frames = self.corpus, round(seconds * FRAME_RATE_HZ)
        if self.openings and not held_out and frames <= self.openings.codes.shape[2]:
            corpus = self.openings
        frames = min(frames, corpus.codes.shape[2])
        choices = np.arange(self.held_out) if held_out else self.ready[corpus is self.openings]
        crops, texts, half_beats = [], [], []
        for index in self.random.choice(choices, max(1, self.batch_frames // frames)):
            # Half of the crops begin where their clip does: so does what is generated.
            starts = corpus.starts(index, frames)
            start = 0 if held_out or self.random.random() < 0.5 else int(self.random.choice(starts))
            crops.append(corpus.codes[index, :, start : start + frames])
            texts.append(corpus.caption(index, int(self.random.integers(1 << 30))))
            half_beats.append(corpus.half_beat(index))
        return torch.from_numpy(np.stack(crops)).to(self.device).long(), texts, half_beats

    def losses(self, codes: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """Return the cross-entropy of each codebook ``[K]``, in nats."""
        from audiocraft.modules.conditioners import ConditioningAttributes

        attributes = [ConditioningAttributes(text={"description": text}) for text in texts]
        count, books, frames = codes.shape
        # The pattern's sequence: one special token, then each codebook a step later than the one before.
        sequence = codes.new_full((count, books, frames + 1), self.model.special_token_id)
        for book in range(books):
            sequence[:, book, 1 + book :] = codes[:, book, : frames - book]
        inputs = sequence[:, :, :-1]
        if self.model.training:
            inputs = self._disturbed(inputs)
        with torch.autocast(self.device, torch.bfloat16):
            logits = self.model(inputs, attributes)
        parts = []
        for book in range(books):
            predicted, targets = logits[:, book, book:], sequence[:, book, 1 + book :]
            parts.append(
                functional.cross_entropy(predicted.reshape(-1, predicted.shape[-1]).float(), targets.flatten())
            )
        return torch.stack(parts)

    def _disturbed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Put codes of other clips, or of other times, in place of up to WRONG_SHARE of each sequence's."""
        count, _, steps = inputs.shape
        strange = inputs[torch.randperm(count, device=inputs.device)].roll(int(torch.randint(steps, ())), 2)
        share = WRONG_SHARE * torch.rand(count, 1, 1, device=inputs.device)
        codes = (inputs != self.model.special_token_id) & (strange != self.model.special_token_id)
        return torch.where(codes & (torch.rand(inputs.shape, device=inputs.device) < share), strange, inputs)

    def clock_loss(self, half_beats: list[int]) -> torch.Tensor:
        """Return the cross-entropy of how many frames it is to the next half beat, for the last codes of `losses`.

        0 where nothing beats. Every crop begins on a beat, so before the second one only the text can tell.
        """
        hidden, self._hidden = self._hidden, None
        if hidden is None or not all(half_beats):
            return torch.zeros((), device=self.device)
        steps = torch.arange(hidden.shape[1], device=self.device)
        targets = -steps % torch.tensor(half_beats, device=self.device)[:, None]
        return functional.cross_entropy(self.clock(hidden.float()).flatten(0, 1), targets.flatten())

    def _keep(self, _: nn.Module, __: Any, output: torch.Tensor) -> None:
        self._hidden = output if self.model.training else None

    def train(self, minutes: float, steps: int = 0) -> None:
        """Train until so many minutes, and where it is given so many steps, have been spent in all."""
        budget, begin, before = minutes * 60.0, time.monotonic(), self.seconds
        weights = torch.tensor(CODEBOOK_WEIGHTS, device=self.device)
        losses, ticks = torch.zeros(len(weights)), torch.zeros(())
        while self.seconds < budget and not 0 < steps <= self.step:
            self.seconds = before + time.monotonic() - begin
            progress = min(1.0, self.seconds / budget)
            self._set_rate(progress)
            if self.step % 50 == 0 or not all(map(len, self.ready)):
                self._look()
                if not all(map(len, self.ready)):
                    time.sleep(1.0)
                    continue
            self.model.train()
            crops = CROP_SECONDS[progress > 0.5]
            codes, texts, half_beats = self.batch(crops[self.step % len(crops)])
            losses = self.losses(codes, texts)
            ticks = self.clock_loss(half_beats)
            self.model.zero_grad()
            self.clock.zero_grad()
            torch.autograd.backward((losses * weights).sum() + CLOCK_WEIGHT * ticks)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
            self.step += 1
            self._follow()
            if self.step % REPORT_STEPS == 0:
                self.report(losses, ticks)
                self.save()
        self.report(losses, ticks)
        self.save()

    def _look(self) -> None:
        """Find the clips that have codes by now."""
        whole = np.flatnonzero(self.corpus.codes[:, 0, 0] >= 0)
        self.ready = [whole[whole >= self.held_out]]
        if self.openings:
            self.ready.append(np.flatnonzero(self.openings.codes[:, 0, 0] >= 0))

    def _set_rate(self, progress: float) -> None:
        """A quick rise, a long level stretch, and a fall to nothing over the last two fifths."""
        shape = min(1.0, (self.step + 1) / 150, 0.02 + 0.98 * (1.0 - progress) / 0.4)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * shape

    @torch.no_grad()
    def _follow(self) -> None:
        weight = 1.0 - min(MEAN_DECAY, self.step / (self.step + 10.0))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.mean[name].lerp_(tensor, weight)

    def report(self, losses: torch.Tensor, ticks: torch.Tensor) -> None:
        """Log the mean weights' held-out loss, also with the captions of other clips: the text is used if worse."""
        own = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.mean)
        self.model.eval()
        self.random = np.random.default_rng(1)
        found: dict[str, list[torch.Tensor]] = {"held_out": [], "shuffled": []}
        with torch.inference_mode():
            for _ in range(3):
                codes, texts, _ = self.batch(10, held_out=True)
                found["held_out"].append(self.losses(codes, texts))
                found["shuffled"].append(self.losses(codes, texts[1:] + texts[:1]))
        self.random = np.random.default_rng(self.step + 2)
        self.model.load_state_dict(own)
        means = {name: torch.stack(parts).mean(0) for name, parts in found.items()}
        line = {
            "step": self.step, "minutes": round(self.seconds / 60, 2), "clips": sum(map(len, self.ready)),
            "loss": round(float(losses.detach().mean()), 4), "clock": round(float(ticks.detach()), 4),
            "held_out": round(float(means["held_out"].mean()), 4),
            "held_out_shuffled_captions": round(float(means["shuffled"].mean()), 4),
            "held_out_by_codebook": [round(float(loss), 3) for loss in means["held_out"]],
        }  # fmt: skip
        with (self.out / "lm.log").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(), "clock": self.clock.state_dict(),
            "mean": self.mean, "step": self.step, "seconds": self.seconds,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }  # fmt: skip
        with checkpoints.replacing(self.out / "trainer.pt") as path:
            torch.save(state, path)
        # The folder of the text encoder is written relative to the checkpoint: it moves with it.
        config = self.config % {"text_encoder": "text_encoder"}
        checkpoints.save(self.out / LM_FILE, config, self.mean, half=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("music", "sound"), default="music")
    parser.add_argument("--codec", type=Path, default=Path("out/tiny/codec"))
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--openings", type=Path, help="a folder of short clips, for most of the short crops")
    parser.add_argument("--out", type=Path, default=Path("out/tiny/lm"))
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--batch-frames", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many, whatever the time (default: never)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    kind = Music if options.kind == "music" else Sounds
    corpus, openings = kind(options.data), kind(options.openings) if options.openings else None
    config = checkpoints.LM_CONFIG if options.kind == "music" else checkpoints.SOUND_LM_CONFIG
    if not (options.out / "text_encoder").exists():
        build_text_encoder(corpus, options.out / "text_encoder")
    trainer = Trainer(
        corpus, options.codec, options.out, options.device, options.batch_frames, config, options.rate, openings
    )
    trainer.train(options.minutes, options.steps)
    shutil.copyfile(options.codec / CODEC_FILE, options.out / CODEC_FILE)


if __name__ == "__main__":
    main()
