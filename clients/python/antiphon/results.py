"""What the calls return: plain, frozen values. Times are in seconds, audio is [samples, channels]."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from antiphon.audio import OutputEncoding, Samples, WavWriter
from antiphon.errors import AntiphonError


class Service(StrEnum):
    """The three services; the value is the name that the edge routes by."""

    GENERATOR = "generator"
    CODEC = "codec"
    ANALYZER = "analyzer"

    @property
    def full_name(self) -> str:
        """The name in the proto package, which the health service knows it by."""
        return f"antiphon.v1.{self.capitalize()}Service"


class HealthStatus(StrEnum):
    """How a service is."""

    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    """It answers, but is loading its model or going down."""
    UNKNOWN = "UNKNOWN"
    """It answers, but does not know of this service."""
    UNREACHABLE = "UNREACHABLE"
    """It does not answer."""


class ModelKind(StrEnum):
    """What a model does."""

    UNSPECIFIED = "unspecified"
    MUSIC = "music"
    SOUND = "sound"
    CODEC = "codec"
    ANALYZER = "analyzer"


@dataclass(frozen=True)
class Model:
    """A model that a service has loaded. The fields are those of ModelInfo in audio.proto."""

    name: str
    service: Service
    kind: ModelKind
    is_default: bool
    sample_rate_hz: int
    channel_count: int
    frame_rate_hz: float
    codebook_count: int
    codebook_size: int
    max_duration_seconds: float
    parameter_count: int
    digest: str
    device: str
    precision: str
    latency_seconds: float
    license: str
    is_trained: bool


@dataclass(frozen=True)
class ModelList:
    """The models of all services that answered. Iterating and `len` go over the models.

    Attributes:
        models: Service by service, each service's default first.
        errors: Why the other services did not answer.
    """

    models: tuple[Model, ...]
    errors: Mapping[Service, AntiphonError]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


@dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of a stream of audio.

    Attributes:
        samples: float32 [samples, channels]; read-only. Empty where `encoding` is that of a file.
        sequence: Number of the chunk in its stream, from 0.
        first_sample: Index of its first sample (of each channel) in the whole piece.
        is_final: True in the last chunk of the piece.
        data: The bytes as they came, laid out as `encoding` says.
    """

    samples: Samples
    sequence: int
    first_sample: int
    sample_rate_hz: int
    is_final: bool
    data: bytes
    encoding: OutputEncoding

    @property
    def duration_seconds(self) -> float:
        """Length of the chunk."""
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True)
class Started:
    """What the server took the request to mean, with every default filled in.

    Attributes:
        prompts: The texts and their weights.
        seed: Give it to a later call, with the same other arguments, to get the same tokens.
        frame_rate_hz: Code frames a second.
        total_samples: Samples (of each channel) that the piece will have.
        total_steps: Steps that it will take.
    """

    model: str
    prompts: tuple[tuple[str, float], ...]
    duration_seconds: float
    seed: int
    temperature: float
    top_k: int
    top_p: float
    cfg_coef: float
    use_sampling: bool
    encoding: OutputEncoding
    sample_rate_hz: int
    channel_count: int
    frame_rate_hz: float
    total_samples: int
    total_steps: int


@dataclass(frozen=True)
class Progress:
    """Steps done, of `total_steps`."""

    steps: int = 0
    total_steps: int = 0

    @property
    def fraction(self) -> float:
        """How far it is, 0 to 1."""
        return self.steps / self.total_steps if self.total_steps else 0.0


class FinishReason(StrEnum):
    """Why a generation ended."""

    UNSPECIFIED = "unspecified"
    COMPLETE = "complete"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Timings:
    """From the request's arrival to the first step, the first audio and the end, on the server's clock."""

    queue_seconds: float
    first_audio_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Finished:
    """How a generation ended, and what it took."""

    reason: FinishReason
    audio_seconds: float
    steps: int
    timings: Timings


@dataclass(frozen=True, eq=False)
class Audio:
    """A piece of audio: float32 samples of shape [samples, channels], and their rate."""

    samples: Samples
    sample_rate_hz: int

    @property
    def duration_seconds(self) -> float:
        """Length of the piece."""
        return len(self.samples) / self.sample_rate_hz

    def save(self, destination: str | os.PathLike[str] | BinaryIO) -> None:
        """Writes a 16-bit WAV file.

        Raises:
            OSError: The destination can't be written.
        """
        rate, channels = self.sample_rate_hz, self.samples.shape[1]
        total = len(self.samples)
        with WavWriter(destination, sample_rate_hz=rate, channel_count=channels, total_samples=total) as wav:
            wav.write(self.samples)

    def _repr_html_(self) -> str:
        """What a notebook shows: a player."""
        file = io.BytesIO()
        self.save(file)
        data = base64.b64encode(file.getvalue()).decode()
        return f'<audio controls preload="metadata" src="data:audio/wav;base64,{data}"></audio>'


@dataclass(frozen=True, eq=False)
class GeneratedAudio(Audio):
    """A generated piece.

    Attributes:
        codes: int32 [K, T] (codebooks, frames), when asked for; else None.
    """

    started: Started
    finished: Finished
    codes: NDArray[np.int32] | None

    @property
    def seed(self) -> int:
        """The seed that makes the same tokens again."""
        return self.started.seed

    @property
    def timings(self) -> Timings:
        """What it took."""
        return self.finished.timings


@dataclass(frozen=True, eq=False)
class EncodedAudio:
    """Codes of a neural codec, and what decoding them needs.

    Attributes:
        codes: int32 [K, T] (codebooks, frames).
        bits_per_code: Bits that a code takes on the wire.
        sample_count: Samples (of each channel) that the codes stand for, without padding.
        scales: Loudness of the segments, for models that normalise their input; else empty.
    """

    codes: NDArray[np.int32]
    bits_per_code: int
    model: str
    sample_count: int
    sample_rate_hz: int
    channel_count: int
    bandwidth_kbps: float
    scales: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class EncodedChunk:
    """A piece of a stream of codes.

    Attributes:
        codes: int32 [K, T] (codebooks, frames).
        first_frame: Index of its first frame in the whole piece.
        scales: Loudness of each frame's segment, for models that normalise their input; else empty.
    """

    codes: NDArray[np.int32]
    first_frame: int
    scales: tuple[float, ...]
