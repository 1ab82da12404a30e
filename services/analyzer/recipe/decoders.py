"""The decoders whose work the detector is to know, by name, and the one that it is only tested on.

The embedded codecs of music and of sounds at every number of codebooks, the older training checkpoint of the first,
the variants of other architectures, Griffin-Lim from a mel spectrogram, and, rarely, networks that were never trained.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from services.analyzer.recipe import variants
from services.analyzer.recipe.architectures import VARIANTS
from services.analyzer.recipe.segments import MODEL_RATE_HZ, to_pcm
from services.analyzer.recipe.sources import RATE_HZ
from services.models.resampling import convert
from services.models.tiny import checkpoints

CODECS = {
    "encodec": Path("out/tiny/codec2/compression_state_dict.bin"),
    "checkpoint": Path("out/tiny/codec/compression_state_dict.bin"),
    "sound-encodec": Path("out/tiny/sound_codec/compression_state_dict.bin"),
}
"""The embedded codec of music, the same after a short first training, and the embedded codec of sounds."""

UNSEEN = "vocos-240.final"
ROUND_TRIP = "encodec.4"
SHARES = {
    "codec": {
        "encodec.1": 0.16,
        "encodec.2": 0.18,
        "encodec.3": 0.16,
        "encodec.4": 0.20,
        "checkpoint.2": 0.08,
        "checkpoint.4": 0.10,
        "griffin-lim.80": 0.06,
        "griffin-lim.128": 0.06,
    },
    "variant": {
        "seanet-320.early": 0.07,
        "seanet-320.final": 0.20,
        "seanet-128.early": 0.07,
        "seanet-128.final": 0.20,
        "dac-256.early": 0.07,
        "dac-256.final": 0.20,
        "hifigan-256.early": 0.04,
        "hifigan-256.final": 0.12,
        "untrained.0": 0.03,
    },
    "sound": {
        "sound-encodec.1": 0.25,
        "sound-encodec.2": 0.25,
        "sound-encodec.3": 0.25,
        "sound-encodec.4": 0.25,
    },
}
"""How often each is taken, in its group. Calibration and the test's first row draw from the first two groups alike."""
_CODEC_SHARE = 0.5


def draw(random: np.random.Generator, group: str | None = None) -> str:
    """Draw the name of a decoder that training knows, from one group or from the first two."""
    shares = SHARES[group or ("codec" if random.random() < _CODEC_SHARE else "variant")]
    return str(random.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))


def decode(name: str, at_32k: np.ndarray, at_24k: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return what the decoder makes of int16 ``[T]`` (given at both rates), at 24 kHz and as long as `at_24k`.

    It has the level of what went in: decoders that were trained for a minute are quiet, and that is no trace.
    Raises `FileNotFoundError` for a variant that was not trained yet, `KeyError` for an unknown name.
    """
    family, _, detail = name.partition(".")
    audio = torch.from_numpy(at_24k.astype(np.float32) / 32768.0)
    if family in CODECS:
        source = torch.from_numpy(at_32k.astype(np.float32) / 32768.0)
        output = _through_codec(family, int(detail), source)
    elif family == "griffin-lim":
        output = _griffin_lim(audio, int(detail), int(random.integers(1 << 31)))
    elif family == "untrained":
        output = _untrained(audio, int(random.integers(4)))
    else:
        output = variants.reconstruct(_variant(family, detail), audio[None, None], int(random.choice(variants.LEVELS)))
        output = output[0, 0]
    return to_pcm(_levelled(output[: audio.shape[0]], audio))


def reference(name: str, at_32k: np.ndarray, at_24k: np.ndarray) -> np.ndarray:
    """Return what the decoder's sample rate leaves of real audio: a missing top octave is no trace."""
    family = name.partition(".")[0]
    if family not in CODECS or _codec(family).sample_rate >= MODEL_RATE_HZ:
        return at_24k
    rate = _codec(family).sample_rate
    narrow = convert(torch.from_numpy(at_32k.astype(np.float32) / 32768.0)[None], RATE_HZ, rate, 1)
    return to_pcm(convert(narrow, rate, MODEL_RATE_HZ, 1)[0, : at_24k.shape[0]])


@functools.cache
def _codec(family: str) -> Any:
    saved = torch.load(CODECS[family], weights_only=True)
    model = checkpoints.build_codec(saved["xp.cfg"])
    model.load_state_dict(saved["best_state"])
    return model.eval()


@functools.cache
def _variant(name: str, state: str) -> Any:
    if name not in VARIANTS:
        raise KeyError(name)
    return variants.load(name, state)


@torch.inference_mode()
def _through_codec(family: str, codebooks: int, audio: torch.Tensor) -> torch.Tensor:
    """Return what a codec makes of ``[T]`` at 32 kHz, at 24 kHz."""
    model = _codec(family)
    source = convert(audio[None], RATE_HZ, model.sample_rate, 1)
    codes, _ = model.encode(source[None])
    output = model.decode(codes[:, :codebooks])[0, :, : source.shape[1]]
    return convert(output, model.sample_rate, MODEL_RATE_HZ, 1)[0]


@torch.inference_mode()
def _griffin_lim(audio: torch.Tensor, mels: int, seed: int) -> torch.Tensor:
    """Invert a mel spectrogram by its pseudo-inverse and 32 rounds of phase estimation from phases of that seed."""
    bank = torchaudio.functional.melscale_fbanks(513, 0.0, MODEL_RATE_HZ / 2, mels, MODEL_RATE_HZ)
    window = torch.hann_window(1024)
    magnitude = torch.stft(audio, 1024, 256, window=window, return_complex=True).abs()
    inverted = (torch.linalg.pinv(bank.T) @ (bank.T @ magnitude)).clamp(min=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output: torch.Tensor = torchaudio.functional.griffinlim(
            inverted[None], window, 1024, 256, 1024, 1.0, 32, 0.99, audio.shape[0], True
        )
    return output[0]


@torch.inference_mode()
def _untrained(audio: torch.Tensor, seed: int) -> torch.Tensor:
    """Run a network of random weights, and take out what it adds to silence."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = variants.build(list(VARIANTS.values())[seed % 3])
    output = variants.reconstruct(model.eval(), audio[None, None], 0)[0, 0]
    return output - output.mean()


def _levelled(output: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    """Give `output` the root mean square of `audio`, or less where its peak would pass full scale."""
    gain = audio.square().mean().sqrt() / output.square().mean().sqrt().clamp(min=1e-5)
    return output * torch.minimum(gain, 1.0 / output.abs().amax().clamp(min=1e-5))
