"""Audio files to samples: any file in, limits first. `audio_output` goes the other way.

Files come from strangers. What a file claims of itself is held against the limits before a sample is
decoded, decoding goes block by block and stops past the limits, and FFmpeg may use none of the formats that
open other files or addresses.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Iterator

import av
import numpy as np
import soundfile
import torch

from services.models.audio_output import to_pcm16, to_pcm_f32, to_wav
from services.models.chaining import parts_of
from services.models.resampling import Resampler, convert, convert_channels

__all__ = [
    "AudioError",
    "AudioLimits",
    "AudioSource",
    "Resampler",
    "convert",
    "convert_channels",
    "open_audio",
    "read_audio",
    "to_pcm16",
    "to_pcm_f32",
    "to_wav",
]

_BLOCK_VALUES = 1 << 17
_UNKNOWN_FRAMES = 1 << 62
_MAX_PARTS = 1000
_PEAK = 65_536.0
"""Above any scale that files use; below what would overflow in a network."""
_FFMPEG_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,ogg,mp3,flac,wav,w64,aiff,caf,asf,amr,ac3,eac3,ape,tta,wv"
_FFMPEG_SLACK_SECONDS = 0.5
_MP3_SLACK_FRAMES = 4 * 1152


class AudioError(ValueError):
    """Bytes that are not audio, or audio past the limits."""

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description


@dataclasses.dataclass(frozen=True)
class AudioLimits:
    """What an audio file may be. `max_values` bounds frames times channels, and so the memory."""

    max_bytes: int = 32 << 20
    max_seconds: float = 600.0
    max_channels: int = 8
    min_rate_hz: int = 4_000
    max_rate_hz: int = 384_000
    max_values: int = 64_000_000


@dataclasses.dataclass(frozen=True)
class AudioSource:
    """An open audio file. `blocks` yields float32 ``[C, n]``, finite, and raises `AudioError`."""

    rate_hz: int
    channel_count: int
    blocks: Iterator[torch.Tensor]


@dataclasses.dataclass(frozen=True)
class _Opened:
    source: AudioSource
    frames: int | None
    """Frames that the header claims, where it claims any."""
    slack: int
    """By how much the claim may be wrong."""


def open_audio(data: bytes, limits: AudioLimits) -> AudioSource:
    """Open an audio file with libsndfile or, failing that, with FFmpeg.

    Raises `AudioError` when it is empty, not audio, or past the limits by its own header; `blocks` raises it
    when decoding passes the limits, fails, ends early, or meets a sample that is not finite.
    """
    if not data:
        raise AudioError("is empty")
    if len(data) > limits.max_bytes:
        raise AudioError(f"is too large: {len(data)} bytes, at most {limits.max_bytes}")
    if _is_cut_wav(data):
        raise AudioError("is truncated: the WAV header claims more bytes than there are")
    opened = _open_sndfile(data) or _open_ffmpeg(data)
    source = opened.source
    if not 1 <= source.channel_count <= limits.max_channels:
        raise AudioError(f"has {source.channel_count} channels, from 1 to {limits.max_channels} are possible")
    if not limits.min_rate_hz <= source.rate_hz <= limits.max_rate_hz:
        raise AudioError(
            f"has a sample rate out of range: {source.rate_hz} Hz, from {limits.min_rate_hz} to {limits.max_rate_hz}"
        )
    if opened.frames is not None:
        _check_length(opened.frames, source, limits)
    return dataclasses.replace(source, blocks=_checked(opened, limits))


def read_audio(data: bytes, limits: AudioLimits) -> tuple[torch.Tensor, int]:
    """Read a whole audio file. Returns float32 ``[C, T]`` and its rate in hertz. Raises `AudioError`."""
    source = open_audio(data, limits)
    return torch.cat(list(source.blocks), dim=1), source.rate_hz


def _check_length(frames: int, source: AudioSource, limits: AudioLimits) -> None:
    if frames > limits.max_seconds * source.rate_hz:
        raise AudioError(f"is too long: {frames / source.rate_hz:.1f} s, at most {limits.max_seconds:g} s")
    if frames * source.channel_count > limits.max_values:
        raise AudioError(
            f"holds too many samples: {frames * source.channel_count} over all channels, at most {limits.max_values}"
        )


def _checked(opened: _Opened, limits: AudioLimits) -> Iterator[torch.Tensor]:
    total = 0
    for block in opened.source.blocks:
        total += block.shape[1]
        _check_length(total, opened.source, limits)
        # A NaN is not below the peak either.
        if block.numel() and not bool(block.abs().max() <= _PEAK):
            raise AudioError(f"holds samples that are not finite or pass {_PEAK:g}")
        yield block
    if total == 0:
        raise AudioError("holds no samples")
    if opened.frames is not None and total < opened.frames - opened.slack:
        raise AudioError(f"is truncated: {total} of {opened.frames} samples are there")


def _is_cut_wav(data: bytes) -> bool:
    """Tell whether a RIFF WAVE header claims more samples than follow; libsndfile only shortens the file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return False
    position = 12
    for _ in range(1000):
        if position + 8 > len(data):
            break
        name, size = struct.unpack_from("<4sI", data, position)
        if name == b"data":
            # Writers of streams, which cannot know the size, put a number near 2 or 4 GiB.
            return bool(size < 0x7FFF0000 and position + 8 + size > len(data))
        position += 8 + size + size % 2
    return False


def _open_sndfile(data: bytes) -> _Opened | None:
    """Open a file with libsndfile, part after part; None where FFmpeg must read it."""
    parts = parts_of(data)
    if len(parts) > _MAX_PARTS:
        raise AudioError(f"is a chain of {len(parts)} files, at most {_MAX_PARTS}")
    opened = _open_part(parts[0])
    if opened is None or len(parts) == 1:
        return opened
    form = opened.source

    def blocks() -> Iterator[torch.Tensor]:
        for part in parts:
            each = _open_part(part)
            if each is None or each.frames is None:
                raise AudioError("is truncated or damaged")
            if (each.source.rate_hz, each.source.channel_count) != (form.rate_hz, form.channel_count):
                raise AudioError("changes its sample rate or channels on the way")
            count = 0
            for block in each.source.blocks:
                count += block.shape[1]
                yield block
            if count < each.frames - each.slack:
                raise AudioError(f"is truncated: {count} of {each.frames} samples are there")

    return _Opened(AudioSource(form.rate_hz, form.channel_count, blocks()), None, 0)


def _open_part(data: bytes) -> _Opened | None:
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.SoundFileError:
        return None
    if file.frames >= _UNKNOWN_FRAMES:
        # Python's soundfile seeks after each read and can't at the end of such a file; FFmpeg reads it.
        file.close()
        return None

    def blocks() -> Iterator[torch.Tensor]:
        frames = max(1, _BLOCK_VALUES // file.channels)
        with file:
            while True:
                try:
                    block = file.read(frames, dtype="float32", always_2d=True)
                except (soundfile.SoundFileError, RuntimeError) as error:
                    raise AudioError("is truncated or damaged") from error
                if not len(block):
                    return
                yield torch.from_numpy(np.ascontiguousarray(block.T))

    slack = _MP3_SLACK_FRAMES if file.format == "MP3" else 0
    return _Opened(AudioSource(file.samplerate, file.channels, blocks()), file.frames, slack)


def _open_ffmpeg(data: bytes) -> _Opened:
    try:
        container = av.open(
            io.BytesIO(data),
            mode="r",
            metadata_errors="replace",
            container_options={"format_whitelist": _FFMPEG_FORMATS, "protocol_whitelist": "none"},
        )
    except (av.FFmpegError, ValueError) as error:
        raise AudioError("is not audio that can be read") from error
    if not container.streams.audio:
        container.close()
        raise AudioError("holds no audio track")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        container.close()
        raise AudioError("holds an audio track in a codec that is not known")
    rate, channels = stream.codec_context.sample_rate or 0, stream.codec_context.channels

    def blocks() -> Iterator[torch.Tensor]:
        planar = av.AudioResampler(format="fltp")
        try:
            for frame in container.decode(stream):
                if frame.sample_rate != rate or frame.layout.nb_channels != channels:
                    raise AudioError("changes its sample rate or channels on the way")
                for converted in planar.resample(frame):
                    yield torch.from_numpy(converted.to_ndarray())
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, AudioError):
                raise
            raise AudioError("is truncated or damaged") from error
        finally:
            container.close()

    frames = None
    # Other containers only guess their length, from the bit rate.
    if container.format.name.startswith(("mov", "matroska")):
        if stream.duration is not None and stream.time_base is not None:
            frames = int(stream.duration * stream.time_base * rate)
        elif container.duration is not None:
            frames = container.duration * rate // 1_000_000
    return _Opened(AudioSource(rate, channels, blocks()), frames, int(_FFMPEG_SLACK_SECONDS * rate))
