"""Samples to the bytes of audio files, while the samples are being made.

Raw PCM and WAV are packed here; FLAC, Opus and MP3 come from FFmpeg. No encoder waits for the end: what it has
made of the samples so far is returned at once, and the joined bytes are the file.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
import torch
from numpy.typing import NDArray

from services.models import mp3
from services.models.resampling import Resampler, convert_channels

__all__ = ["AudioEncoder", "AudioOutput", "Encoding", "OutputError", "limit", "to_pcm16", "to_pcm_f32", "to_wav"]

_KNEE = 0.9
_FULL_SCALE = 32767.0
_UNKNOWN_LENGTH = 0xFFFFFFFF
_MIN_RATE_HZ, _MAX_RATE_HZ = 8_000, 192_000
_MAX_CHANNELS = 2
_OPUS_RATE_HZ = 48_000
_OPUS_BITS_PER_CHANNEL = 64_000


class Encoding(enum.StrEnum):
    """Layouts of audio bytes, named as `AudioEncoding` in audio.proto without its prefix."""

    PCM_S16LE = "PCM_S16LE"
    PCM_F32LE = "PCM_F32LE"
    WAV = "WAV"
    FLAC = "FLAC"
    OGG_OPUS = "OGG_OPUS"
    MP3 = "MP3"

    @property
    def media_type(self) -> str:
        """The MIME type."""
        return _MEDIA_TYPES[self]


_MEDIA_TYPES = {
    Encoding.PCM_S16LE: "application/octet-stream",
    Encoding.PCM_F32LE: "application/octet-stream",
    Encoding.WAV: "audio/wav",
    Encoding.FLAC: "audio/flac",
    Encoding.OGG_OPUS: "audio/ogg",
    Encoding.MP3: "audio/mpeg",
}


class OutputError(ValueError):
    """A form of audio that can't be made; `field` is the field of `AudioFormat` that is to blame."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


@dataclasses.dataclass(frozen=True)
class AudioOutput:
    """The form in which audio leaves."""

    encoding: Encoding
    rate_hz: int
    channel_count: int

    @classmethod
    def resolve(
        cls,
        encoding: Encoding,
        rate_hz: int = 0,
        channel_count: int = 0,
        *,
        own_rate_hz: int,
        own_channel_count: int,
    ) -> AudioOutput:
        """Return the form for what a caller asks, 0 standing for the model's own.

        Opus knows 48,000 Hz only and MP3 nine rates: where the caller leaves the rate open and the model's own is
        not among them, it becomes the next higher. Raises `OutputError`.
        """
        if not rate_hz:
            rate_hz = own_rate_hz
            if encoding is Encoding.OGG_OPUS:
                rate_hz = _OPUS_RATE_HZ
            elif encoding is Encoding.MP3:
                rate_hz = min((rate for rate in mp3.RATES_HZ if rate >= own_rate_hz), default=max(mp3.RATES_HZ))
        elif encoding is Encoding.OGG_OPUS and rate_hz != _OPUS_RATE_HZ:
            raise OutputError("sample_rate_hz", f"{rate_hz} is not {_OPUS_RATE_HZ}, the only rate of Opus")
        elif encoding is Encoding.MP3 and rate_hz not in mp3.RATES_HZ:
            raise OutputError("sample_rate_hz", f"{rate_hz} is not a rate of MP3: {', '.join(map(str, mp3.RATES_HZ))}")
        elif rate_hz != own_rate_hz and not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
            raise OutputError("sample_rate_hz", f"{rate_hz} is not {_MIN_RATE_HZ} to {_MAX_RATE_HZ}")
        if not 0 <= channel_count <= _MAX_CHANNELS:
            raise OutputError("channel_count", f"{channel_count} is not 0 to {_MAX_CHANNELS}")
        return cls(encoding, rate_hz, channel_count or own_channel_count)


class AudioEncoder:
    """Turns the samples of one piece into the bytes of one file. Instances share nothing; one thread each.

    Args:
        output: The form to make. Rate, then channels are converted as `convert` does.
        rate_hz: Rate of the samples that come in.
        channel_count: Their channels.
        total_samples: How many samples (of each channel) will come in, where that is certain. WAV, FLAC and MP3
            tell their length in the header, which is gone when the end is reached. Without it, WAV says "unknown"
            as streams do, FLAC too, and a decoder of MP3 returns the encoder's padding with the audio.
    """

    def __init__(self, output: AudioOutput, rate_hz: int, channel_count: int, total_samples: int | None = None) -> None:
        self.output = output
        self.sample_count = 0
        """Samples of each channel, at the output's rate, that `encode` and `finish` have written."""
        self._resampler = Resampler(rate_hz, output.rate_hz, channel_count, min_block=0)
        total = None if total_samples is None else total_samples * output.rate_hz // rate_hz
        self._writer = _writer(output, total)

    def encode(self, samples: torch.Tensor) -> bytes:
        """Take float ``[C, n]``, n from 0; return the bytes that are ready, perhaps none."""
        return self._write(self._resampler.push(samples.detach().float().cpu()))

    def finish(self) -> bytes:
        """Return the rest of the file. Nothing may follow."""
        rest = self._write(self._resampler.finish())
        return rest + self._writer.finish()

    def _write(self, resampled: torch.Tensor) -> bytes:
        converted = convert_channels(resampled, self.output.channel_count).numpy()
        self.sample_count += converted.shape[1]
        return self._writer.write(converted)


class _Writer(Protocol):
    def write(self, samples: NDArray[np.float32]) -> bytes:
        """Take ``[C, n]`` at the file's own rate and channels."""

    def finish(self) -> bytes:
        """Return what closes the file."""


def _writer(output: AudioOutput, total: int | None) -> _Writer:
    match output.encoding:
        case Encoding.PCM_S16LE | Encoding.PCM_F32LE:
            return _RawWriter(b"", is_float=output.encoding is Encoding.PCM_F32LE)
        case Encoding.WAV:
            return _RawWriter(_wav_header(output, total), is_float=False)
        case Encoding.FLAC:
            return _FlacWriter(output, total)
        case Encoding.OGG_OPUS:
            # A page for each tenth of a second: seldom enough to cost little, often enough to be heard soon.
            bits = _OPUS_BITS_PER_CHANNEL * output.channel_count
            return _FfmpegWriter(output, "ogg", "libopus", "flt", bits, {"page_duration": "100000"})
        case Encoding.MP3:
            return _Mp3Writer(output, total)


class _RawWriter:
    def __init__(self, header: bytes, *, is_float: bool) -> None:
        self._header = header
        self._is_float = is_float

    def write(self, samples: NDArray[np.float32]) -> bytes:
        header, self._header = self._header, b""
        return header + (samples.astype("<f4").T.tobytes() if self._is_float else _to_int16(samples).T.tobytes())

    def finish(self) -> bytes:
        return self._header


class _Sink:
    """What FFmpeg writes to; it can't seek, so FFmpeg goes back to nothing that is sent already."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


class _FfmpegWriter:
    def __init__(
        self, output: AudioOutput, container: str, codec: str, layout: str, bit_rate: int, options: dict[str, str]
    ) -> None:
        self._sink = _Sink()
        self._sample_format = layout
        self._rate = output.rate_hz
        self._layout = "mono" if output.channel_count == 1 else "stereo"
        self._position = 0
        # Bit exact: the same samples give the same bytes, without a serial number by chance or a version.
        options = {**options, "fflags": "bitexact"}
        self._container = av.open(self._sink, "w", format=container, container_options=options)
        self._stream = self._container.add_stream(codec, rate=output.rate_hz)
        self._stream.codec_context.layout = self._layout
        self._stream.codec_context.format = layout
        if bit_rate:
            self._stream.codec_context.bit_rate = bit_rate
        self._container.start_encoding()

    def write(self, samples: NDArray[np.float32]) -> bytes:
        if samples.shape[1]:
            values = _to_int16(samples) if self._sample_format == "s16" else limit(samples).astype(np.float32)
            if not self._sample_format.endswith("p"):
                values = values.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), self._sample_format, self._layout)
            frame.sample_rate = self._rate
            frame.time_base = Fraction(1, self._rate)
            frame.pts = self._position
            self._position += samples.shape[1]
            self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()


class _FlacWriter(_FfmpegWriter):
    def __init__(self, output: AudioOutput, total: int | None) -> None:
        super().__init__(output, "flac", "flac", "s16", 0, {})
        self._total = total

    def write(self, samples: NDArray[np.float32]) -> bytes:
        return self._with_length(super().write(samples))

    def finish(self) -> bytes:
        return self._with_length(super().finish())

    def _with_length(self, data: bytes) -> bytes:
        # "fLaC", a block's header, ten bytes of sizes; then 20 bits of rate, 3 of channels, 5 of width and 36 that
        # tell the length: https://www.rfc-editor.org/rfc/rfc9639#name-streaminfo.
        if not data or self._total is None:
            return data
        total, self._total = self._total, None
        described = int.from_bytes(data[18:26], "big") | min(total, (1 << 36) - 1)
        return data[:18] + described.to_bytes(8, "big") + data[26:]


class _Mp3Writer(_FfmpegWriter):
    def __init__(self, output: AudioOutput, total: int | None) -> None:
        self._header = b"" if total is None else mp3.info_frame(output.rate_hz, output.channel_count, total)
        bits = mp3.bit_rate(output.rate_hz, output.channel_count)
        # With no way back FFmpeg writes no frame of information of its own.
        super().__init__(output, "mp3", "libmp3lame", "fltp", bits, {"id3v2_version": "0", "write_xing": "0"})

    def write(self, samples: NDArray[np.float32]) -> bytes:
        header, self._header = self._header, b""
        return header + super().write(samples)

    def finish(self) -> bytes:
        return self._header + super().finish()


def _wav_header(output: AudioOutput, total: int | None) -> bytes:
    rate, channels = output.rate_hz, output.channel_count
    length = _UNKNOWN_LENGTH if total is None else min(total * 2 * channels, _UNKNOWN_LENGTH)
    riff = min(length + 36, _UNKNOWN_LENGTH)
    # fmt: 16 bytes, integer PCM, channels, rate, bytes a second, bytes a sample of all channels, bits.
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return struct.pack("<4sI4s4s", b"RIFF", riff, b"WAVE", b"fmt ") + form + struct.pack("<4sI", b"data", length)


def limit(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Bend samples of any shape into full scale; NaN becomes silence.

    Up to 0.9 nothing changes. Above, the curve 0.9 + 0.1 tanh(10 (x - 0.9)) goes on smoothly and stays below 1,
    because neural decoders overshoot on about 1% of samples and cut-off peaks are audible. It looks at one sample
    only, so the chunks of a stream stay the parts of the whole.
    """
    level = np.abs(np.nan_to_num(samples.astype(np.float64), posinf=2.0, neginf=-2.0))
    bent = np.where(level > _KNEE, _KNEE + (1 - _KNEE) * np.tanh((level - _KNEE) / (1 - _KNEE)), level)
    limited: NDArray[np.float64] = np.copysign(bent, samples)
    return limited


def _to_int16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    rounded: NDArray[np.int16] = np.rint(limit(samples) * _FULL_SCALE).astype("<i2")
    return rounded


def to_pcm16(audio: torch.Tensor) -> bytes:
    """Pack float ``[C, T]`` as interleaved little-endian 16-bit integers, bent into full scale by `limit`."""
    packed: bytes = _to_int16(audio.detach().float().cpu().numpy()).T.tobytes()
    return packed


def to_pcm_f32(audio: torch.Tensor) -> bytes:
    """Pack float ``[C, T]`` as interleaved little-endian 32-bit floats, unchanged; peaks may pass 1."""
    packed: bytes = audio.detach().cpu().numpy().astype("<f4").T.tobytes()
    return packed


def to_wav(audio: torch.Tensor, rate: int) -> bytes:
    """Pack float ``[C, T]`` as a 16-bit RIFF WAVE file."""
    header = _wav_header(AudioOutput(Encoding.WAV, rate, audio.shape[0]), audio.shape[1])
    return header + to_pcm16(audio)
