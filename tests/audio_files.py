"""Small audio files of every kind, made in the test that needs them."""

from __future__ import annotations

import io

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float32]

LIBSNDFILE = ("wav", "wav24", "wavf", "flac", "ogg", "mp3")
FFMPEG = ("m4a", "aac", "webm")

_SUBTYPES = {
    "wav": "PCM_16",
    "wav24": "PCM_24",
    "wavf": "FLOAT",
    "flac": "PCM_16",
    "ogg": "VORBIS",
    "mp3": None,
}
_CONTAINERS = {"m4a": ("mp4", "aac"), "aac": ("adts", "aac"), "webm": ("webm", "libopus")}


def tone(seconds: float = 1.0, rate: int = 32_000, channels: int = 1, frequency: float = 440.0) -> Samples:
    """A sine at half of full scale, ``[T, C]``; channel c is `frequency` times c + 1."""
    times = np.arange(round(seconds * rate)) / rate
    pitches = frequency * np.arange(1, channels + 1)
    return (0.5 * np.sin(2 * np.pi * times[:, None] * pitches)).astype(np.float32)


def encoded(kind: str, samples: Samples, rate: int = 32_000) -> bytes:
    """The file of ``[T, C]`` samples in one of the kinds above."""
    return _with_ffmpeg(kind, samples, rate) if kind in FFMPEG else _with_libsndfile(kind, samples, rate)


def _with_libsndfile(kind: str, samples: Samples, rate: int) -> bytes:
    buffer = io.BytesIO()
    form = "WAV" if kind.startswith("wav") else kind.upper()
    soundfile.write(buffer, samples, rate, format=form, subtype=_SUBTYPES.get(kind))
    return buffer.getvalue()


def _with_ffmpeg(kind: str, samples: Samples, rate: int) -> bytes:
    buffer = io.BytesIO()
    container, codec = _CONTAINERS[kind]
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return buffer.getvalue()
