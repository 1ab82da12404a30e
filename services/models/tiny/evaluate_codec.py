"""Measures what an embedded codec loses, on held-out renders and on real recordings, beside Opus.

    python -m services.models.tiny.evaluate_codec --data out/tiny/data --recordings /usr/share/games/wesnoth

Two measures: AudioCraft's multi-scale mel distance, which the codec was trained on, and the scale-invariant ratio of
signal to distortion (SI-SDR) of the waveform, in decibels. Opus at 6 kbit/s, the least that it goes to, is the
yardstick: it spends over three times the bits. The recordings (any folder of audio files) are only measured, never
trained on. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from services.models.loader import LoadedCodec, load_codec

from .corpus import split
from .encode import decoder, encoder

SECONDS, OPUS_RATE_HZ, OPUS_BITS = 8, 48_000, 6_000
_SUFFIXES = (".ogg", ".flac", ".wav", ".mp3", ".opus")
_LARGEST_LAG_SECONDS = 0.06
"""What Opus and its resampling may shift."""


@dataclass(frozen=True)
class Loss:
    """Means over clips; bits a second are those really spent."""

    mel_distance: float
    si_sdr_db: float
    bits_per_second: float


def si_sdr(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the scale-invariant signal-to-distortion ratio of ``[N, T]``, in dB (Le Roux et al., arXiv 1811.02508)."""
    scale = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp(min=1e-8)
    wanted = scale * target
    return 10 * (wanted.square().sum(-1) / (estimate - wanted).square().sum(-1).clamp(min=1e-8)).log10()


def opus(clip: torch.Tensor, rate: int) -> tuple[torch.Tensor, int]:
    """Return a mono clip ``[T]`` after Opus, shifted back to where it was, and the bytes of its packets."""
    wide = torchaudio.functional.resample(clip, rate, OPUS_RATE_HZ)
    file, size = io.BytesIO(), 0
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE_HZ, layout="mono")
        stream.bit_rate = OPUS_BITS
        frame = av.AudioFrame.from_ndarray(wide.numpy()[None].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate = OPUS_RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            size += packet.size
            container.mux(packet)
    file.seek(0)
    with av.open(file) as container:
        resampler = av.AudioResampler("flt", "mono", OPUS_RATE_HZ)
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    made = torchaudio.functional.resample(torch.from_numpy(np.concatenate(parts)), OPUS_RATE_HZ, rate)
    return _aligned(made, clip, round(_LARGEST_LAG_SECONDS * rate)), size


def _aligned(made: torch.Tensor, clip: torch.Tensor, most: int) -> torch.Tensor:
    """Shift a signal by up to so many samples, to where it is most like the clip; cut or fill it to its length."""
    size = 2 * max(len(made), len(clip))
    products = torch.fft.irfft(torch.fft.rfft(made, size) * torch.fft.rfft(clip, size).conj())
    lag = int(torch.cat([products[: most + 1], products[-most:]]).argmax())
    made = torch.roll(made, -(lag if lag <= most else lag - 2 * most - 1))
    return torch.nn.functional.pad(made, (0, max(0, len(clip) - len(made))))[: len(clip)]


def recordings(folder: Path, rate: int, count: int) -> torch.Tensor:
    """Return ``[N, T]``: SECONDS from the middle of as many audio files of a folder as there are, by name."""
    clips: list[torch.Tensor] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        info = soundfile.info(path)
        if info.duration < SECONDS or len(clips) == count:
            continue
        first = int((info.duration - SECONDS) / 2 * info.samplerate)
        samples, _ = soundfile.read(path, info.samplerate * SECONDS, first, dtype="float32", always_2d=True)
        mono = torchaudio.functional.resample(torch.from_numpy(samples.mean(axis=1)), info.samplerate, rate)
        clips.append(mono[: rate * SECONDS])
    if not clips:
        raise FileNotFoundError(f"{folder}: no audio file of {SECONDS} seconds or more in it")
    return torch.stack(clips)


def measure(clips: torch.Tensor, rate: int, code: Callable[[torch.Tensor], tuple[torch.Tensor, float]]) -> Loss:
    """Return what a codec, from clips ``[N, T]`` to as many and the bits a second, loses of them."""
    from audiocraft.losses import MultiScaleMelSpectrogramLoss

    made, bits = code(clips)
    mel = MultiScaleMelSpectrogramLoss(
        rate, range_start=6, range_end=11, n_mels=64, f_min=64, normalized=True, alphas=True
    )
    with torch.inference_mode():
        distances = [float(mel(one[None, None], clip[None, None])) for one, clip in zip(made, clips, strict=True)]
    return Loss(float(np.mean(distances)), float(si_sdr(made, clips).mean()), bits)


def _ours(loaded: LoadedCodec) -> Callable[[torch.Tensor], tuple[torch.Tensor, float]]:
    encode, decode, info = encoder(loaded), decoder(loaded), loaded.info
    bits = info.frame_rate_hz * info.codebook_count * np.log2(info.codebook_size)

    def code(clips: torch.Tensor) -> tuple[torch.Tensor, float]:
        whole: NDArray[np.int16] = (clips.numpy() * 32767.0).astype(np.int16)
        return decode(encode(whole))[:, : clips.shape[1]], float(bits)

    return code


def _opus(rate: int) -> Callable[[torch.Tensor], tuple[torch.Tensor, float]]:
    def code(clips: torch.Tensor) -> tuple[torch.Tensor, float]:
        made = [opus(clip, rate) for clip in clips]
        bits = 8 * sum(size for _, size in made) * rate / clips.numel()
        return torch.stack([wave for wave, _ in made]), bits

    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="tiny", help="name or folder of a checkpoint")
    parser.add_argument("--data", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--recordings", type=Path, help="folder of audio files")
    parser.add_argument("--clips", type=int, default=40)
    options = parser.parse_args()
    loaded = load_codec(options.codec)
    rate = loaded.info.sample_rate_hz
    audio = np.load(options.data / "audio.npy", mmap_mode="r")
    held = audio[: min(options.clips, split(len(audio))), : SECONDS * rate]
    sets = {"renders": torch.from_numpy(held.astype(np.float32) / 32768.0)}
    if options.recordings:
        sets["recordings"] = recordings(options.recordings, rate, options.clips)
    table = Table("set", "clips", "codec", "bits a second", "mel distance", "SI-SDR, dB", title=loaded.info.name)
    figures: dict[str, float] = {}
    for name, clips in sets.items():
        for codec, code in (("ours", _ours(loaded)), ("opus", _opus(rate))):
            loss = measure(clips, rate, code)
            cells = f"{loss.bits_per_second:.0f}", f"{loss.mel_distance:.3f}", f"{loss.si_sdr_db:.1f}"
            table.add_row(name, str(len(clips)), codec, *cells)
            figures[f"{name}_{codec}_mel"] = round(loss.mel_distance, 3)
            figures[f"{name}_{codec}_si_sdr_db"] = round(loss.si_sdr_db, 2)
            figures[f"{name}_{codec}_bits_per_second"] = round(loss.bits_per_second)
    Console(width=100).print(table)
    print(json.dumps({"codec": loaded.info.name, "digest": loaded.info.digest[:12], **figures}))


if __name__ == "__main__":
    main()
