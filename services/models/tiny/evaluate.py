"""Measures how often the embedded models do what their prompts ask.

    python -m services.models.tiny.evaluate --data out/tiny/data
    python -m services.models.tiny.evaluate --sounds out/tiny/sounds --sound-model out/tiny/sound_lm

Estimators of instrument, tempo, mode and kind of sound are trained on codec reconstructions of renders
(``judges.py``). Then pieces are generated from prompts that no training saw, each with a seed of its own, by the
engine that serves them, at guidance 1, 3 and 5. Guidance 3 with AudioCraft's default sampling is the headline; that,
the prompts and the seeds were fixed before any result was seen. Writes a page of spectrograms beside the figures. The
last line is one JSON object: accuracies, what chance gives, and the ceiling (the estimators on held-out renders).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from services.generator.engine import GeneratorEngine
from services.generator.requests import GenerationRequest
from services.models.conditions import Prompt
from services.models.loader import LoadedGenerator, load_generator
from services.models.sampling import Sampling

from . import captions, sound_captions
from .compose import INSTRUMENTS, Piece
from .judges import SECONDS, MusicJudge, SoundJudge, Verdict
from .pictures import Picture, draw_page
from .sounds import KINDS, Sound

GUIDANCE, HEADLINE = (1.0, 3.0, 5.0), 3.0
BATCH = 20
PROMPT_SEED = 900_001  # odd: training pieces have even seeds
SILENT_RMS = 1e-3


def generate(model: LoadedGenerator, prompts: Sequence[str], cfg_coef: float) -> torch.Tensor:
    """Generate SECONDS of mono audio for each prompt, the seed being its place: ``[N, T]``."""
    engine = GeneratorEngine(model, "auto")
    frames = round(SECONDS * model.info.frame_rate_hz)
    pieces = []
    for first in range(0, len(prompts), BATCH):
        batch = [
            engine.begin(
                GenerationRequest(model.info.name, (Prompt(text),), frames, Sampling(seed=first + i, cfg_coef=cfg_coef))
            )
            for i, text in enumerate(prompts[first : first + BATCH])
        ]
        parts: list[list[torch.Tensor]] = [[] for _ in batch]
        for _ in range(engine.step_count(frames)):
            for own, output in zip(parts, engine.step(batch), strict=True):
                if output.audio.numel():
                    own.append(output.audio[0])
        for sequence in batch:
            engine.release(sequence)
        pieces += [torch.cat(own) for own in parts]
    return torch.stack(pieces)


def music_prompts(count: int) -> tuple[list[Piece], list[str]]:
    """Return pieces that were never rendered, and of each a caption that names instrument, tempo and mode."""
    pieces = [Piece.draw(PROMPT_SEED + 2 * i) for i in range(count)]
    return pieces, [captions.caption(piece, piece.seed, complete=True) for piece in pieces]


def sound_prompts(count: int) -> tuple[list[Sound], list[str]]:
    """Return sounds that were never rendered, and a caption of each."""
    sounds = [Sound.draw(PROMPT_SEED + 2 * i) for i in range(count)]
    return sounds, [sound_captions.caption(sound, sound.seed) for sound in sounds]


class Run:
    """One model's evaluation: its table, its figures, and a picture of one piece of each class."""

    def __init__(
        self, model: LoadedGenerator, judge: Any, asked: Sequence[Any], prompts: Sequence[str], classes: Sequence[str]
    ) -> None:
        self.figures: dict[str, float | int] = {}
        self.pictures: list[Picture] = []
        self.silent, self.clipped = 0, 0.0
        names = list(judge.ceiling.shares)
        table = Table("guidance", *names, "Fréchet distance", "silent", "clipped", title=model.info.name)
        headline: Verdict | None = None
        for coef in GUIDANCE:
            audio = generate(model, prompts, coef)
            verdict = judge.judge(audio, asked)
            silent = int((audio.square().mean(1).sqrt() < SILENT_RMS).sum())
            clipped = float((audio.abs() > 1.0).float().mean())
            cells = [f"{verdict.shares[name]:.2f}" for name in names]
            table.add_row(f"{coef:g}", *cells, f"{verdict.frechet:.2f}", str(silent), f"{clipped:.6f}")
            if coef == HEADLINE:
                headline, self.silent, self.clipped = verdict, silent, clipped
                self._illustrate(audio, prompts, asked, classes, model.info.sample_rate_hz)
        for title, shares, distance in (
            ("chance", judge.chance, "-"),
            ("ceiling", judge.ceiling.shares, f"{judge.floor:.2f}"),
        ):
            table.add_row(title, *(f"{shares[name]:.2f}" for name in names), distance, "-", "-")
        Console(width=110).print(table)
        assert headline is not None
        self._print_classes(headline, asked, classes)
        for name in names:
            self.figures[f"{name}_accuracy"] = round(headline.shares[name], 3)
            self.figures[f"{name}_accuracy_chance"] = round(judge.chance[name], 3)
            self.figures[f"{name}_accuracy_ceiling"] = round(judge.ceiling.shares[name], 3)
        self.figures[f"{names[0]}_frechet"] = round(headline.frechet, 3)
        self.figures[f"{names[0]}_frechet_floor"] = round(judge.floor, 3)

    def _illustrate(
        self, audio: torch.Tensor, prompts: Sequence[str], asked: Sequence[Any], classes: Sequence[str], rate: int
    ) -> None:
        for name in classes:
            first = next((i for i, one in enumerate(asked) if _class_of(one) == name), None)
            if first is not None:
                self.pictures.append(Picture(prompts[first], audio[first], rate))

    @staticmethod
    def _print_classes(verdict: Verdict, asked: Sequence[Any], classes: Sequence[str]) -> None:
        heard = next(iter(verdict.heard.values()))
        for name in classes:
            mine = [h for h, one in zip(heard, asked, strict=True) if _class_of(one) == name]
            others = ", ".join(f"{other} {mine.count(other)}" for other in sorted(set(mine) - {name}))
            right = mine.count(name) / max(1, len(mine))
            print(f"{name:10} asked {len(mine):3}  right {right:.2f}  heard instead: {others or 'nothing else'}")


def _class_of(one: Piece | Sound) -> str:
    return one.instrument if isinstance(one, Piece) else one.kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--sounds", type=Path, default=Path("out/tiny/sounds"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--sound-model", default="", help="a folder or a name (default: only music is measured)")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--renders", type=int, default=800, help="that the estimators are trained on")
    parser.add_argument("--out", type=Path, default=Path("out/tiny/evaluation.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    music = load_generator(options.model)
    first = Run(
        music, MusicJudge(music, options.data, options.renders), *music_prompts(options.prompts), list(INSTRUMENTS)
    )
    runs = [first]
    facts: dict[str, object] = {"model": music.info.digest[:12]}
    if options.sound_model:
        sound = load_generator(options.sound_model)
        judge = SoundJudge(sound, options.sounds, options.renders)
        runs.append(Run(sound, judge, *sound_prompts(options.prompts), list(KINDS)))
        facts["sound_model"] = sound.info.digest[:12]
    draw_page(options.out.with_suffix(".png"), [picture for run in runs for picture in run.pictures])
    result: dict[str, object] = {
        **facts,
        "prompts": options.prompts,
        "cfg_coef": HEADLINE,
        **{name: figure for run in runs for name, figure in run.figures.items()},
        "silent_outputs": sum(run.silent for run in runs),
        "clipping_rate": round(max(run.clipped for run in runs), 6),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
