"""Measures how often the embedded music follows its prompt.

    python -m services.models.tiny.evaluate --data out/tiny/data --model tiny --out out/tiny/evaluation.json

A classifier of the instrument family (log-mel statistics, logistic regression) is trained on codec
reconstructions of real renders, because on clean renders it would not know what the codec does to a sound. Its
accuracy on reconstructions of held-out renders is the ceiling, one in six is chance. Then held-out prompts are
generated with AudioCraft's default sampling and one seed a prompt, all chosen beforehand, and classified. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from services.generator.engine import GeneratorEngine
from services.generator.requests import GenerationRequest
from services.models.conditions import Prompt
from services.models.loader import LoadedGenerator, load_generator
from services.models.sampling import Sampling

from .compose import INSTRUMENTS, Piece

SECONDS = 5
BATCH = 8
PROMPT_SEED = 900_001  # odd: training pieces have even seeds
SILENT_RMS = 1e-3


def features(audio: torch.Tensor, rate: int) -> NDArray[np.float32]:
    """Return the mean, spread and mean change of 64 log-mel bands of mono ``[T]`` audio, brought to one level."""
    level = audio / audio.pow(2).mean().sqrt().clamp(min=1e-4)
    mel = torchaudio.transforms.MelSpectrogram(rate, n_fft=2048, hop_length=512, n_mels=64)(level)
    log = (mel + 1e-3).log()
    parts = (log.mean(1), log.std(1), log.diff(dim=1).abs().mean(1))
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def reconstructions(model: LoadedGenerator, audio: NDArray[np.int16]) -> list[NDArray[np.float32]]:
    """Return the features of renders ``[N, T]`` after the codec."""
    found = []
    samples = SECONDS * model.info.sample_rate_hz
    with torch.inference_mode():
        for clip in audio:
            wave = torch.from_numpy(np.array(clip[:samples])).float()[None, None] / 32768.0
            decoded = model.codec.decode(model.codec.encode(wave)[0])[0, 0]
            found.append(features(decoded, model.info.sample_rate_hz))
    return found


def generate(model: LoadedGenerator, prompts: list[str], cfg_coef: float) -> list[torch.Tensor]:
    """Generate SECONDS of mono audio for each prompt."""
    engine = GeneratorEngine(model)
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
        pieces += [torch.cat(own) for own in parts]
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--renders", type=int, default=600)
    parser.add_argument("--cfg-coef", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("out/tiny/evaluation.json"))
    options = parser.parse_args()
    model = load_generator(options.model)
    names = list(INSTRUMENTS)
    with (options.data / "captions.jsonl").open() as file:
        labels = [names.index(json.loads(line)["instrument"]) for line in file]
    # The last clips: the codec and the language model hold out the last hundred of what they were trained on.
    audio = np.load(options.data / "audio.npy", mmap_mode="r")
    chosen = np.arange(len(labels) - options.renders, len(labels))
    inputs = np.stack(reconstructions(model, audio[chosen]))
    targets = np.array(labels)[chosen]
    held_out = len(chosen) // 4
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    classifier.fit(inputs[:-held_out], targets[:-held_out])
    ceiling = float(classifier.score(inputs[-held_out:], targets[-held_out:]))
    pieces = [Piece.draw(PROMPT_SEED + 2 * i) for i in range(options.prompts)]
    made = generate(model, [piece.caption(piece.seed) for piece in pieces], options.cfg_coef)
    heard = classifier.predict(np.stack([features(wave, model.info.sample_rate_hz) for wave in made]))
    asked = np.array([names.index(piece.instrument) for piece in pieces])
    waves = torch.stack(made)
    for index, name in enumerate(names):
        right = float((heard == asked)[asked == index].mean())
        print(f"{name:8} asked {int((asked == index).sum()):3}  right {right:.2f}")
    result = {
        "model": model.info.digest[:12],
        "prompts": options.prompts,
        "cfg_coef": options.cfg_coef,
        "instrument_accuracy": round(float((heard == asked).mean()), 3),
        "instrument_accuracy_chance": round(1 / len(names), 3),
        "instrument_accuracy_ceiling": round(ceiling, 3),
        "silent_outputs": int((waves.pow(2).mean(1).sqrt() < SILENT_RMS).sum()),
        "clipping_rate": round(float((waves.abs() > 1.0).float().mean()), 6),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
