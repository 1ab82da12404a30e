import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AudioEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIO_ENCODING_UNSPECIFIED: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_PCM_S16LE: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_PCM_F32LE: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_WAV: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_FLAC: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_OGG_OPUS: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_MP3: _ClassVar[AudioEncoding]

class ModelKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_KIND_UNSPECIFIED: _ClassVar[ModelKind]
    MODEL_KIND_MUSIC: _ClassVar[ModelKind]
    MODEL_KIND_SOUND: _ClassVar[ModelKind]
    MODEL_KIND_CODEC: _ClassVar[ModelKind]
    MODEL_KIND_ANALYZER: _ClassVar[ModelKind]

class GenerationMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATION_MODE_UNSPECIFIED: _ClassVar[GenerationMode]
    GENERATION_MODE_CONTINUATION: _ClassVar[GenerationMode]
    GENERATION_MODE_MELODY: _ClassVar[GenerationMode]
    GENERATION_MODE_EXTENSION: _ClassVar[GenerationMode]
    GENERATION_MODE_MIXING: _ClassVar[GenerationMode]
    GENERATION_MODE_STEPWISE: _ClassVar[GenerationMode]
AUDIO_ENCODING_UNSPECIFIED: AudioEncoding
AUDIO_ENCODING_PCM_S16LE: AudioEncoding
AUDIO_ENCODING_PCM_F32LE: AudioEncoding
AUDIO_ENCODING_WAV: AudioEncoding
AUDIO_ENCODING_FLAC: AudioEncoding
AUDIO_ENCODING_OGG_OPUS: AudioEncoding
AUDIO_ENCODING_MP3: AudioEncoding
MODEL_KIND_UNSPECIFIED: ModelKind
MODEL_KIND_MUSIC: ModelKind
MODEL_KIND_SOUND: ModelKind
MODEL_KIND_CODEC: ModelKind
MODEL_KIND_ANALYZER: ModelKind
GENERATION_MODE_UNSPECIFIED: GenerationMode
GENERATION_MODE_CONTINUATION: GenerationMode
GENERATION_MODE_MELODY: GenerationMode
GENERATION_MODE_EXTENSION: GenerationMode
GENERATION_MODE_MIXING: GenerationMode
GENERATION_MODE_STEPWISE: GenerationMode

class AudioFormat(_message.Message):
    __slots__ = ("encoding", "sample_rate_hz", "channel_count")
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    encoding: AudioEncoding
    sample_rate_hz: int
    channel_count: int
    def __init__(self, encoding: _Optional[_Union[AudioEncoding, str]] = ..., sample_rate_hz: _Optional[int] = ..., channel_count: _Optional[int] = ...) -> None: ...

class AudioChunk(_message.Message):
    __slots__ = ("sequence", "first_sample", "sample_count", "data", "is_final")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    first_sample: int
    sample_count: int
    data: bytes
    is_final: bool
    def __init__(self, sequence: _Optional[int] = ..., first_sample: _Optional[int] = ..., sample_count: _Optional[int] = ..., data: _Optional[bytes] = ..., is_final: _Optional[bool] = ...) -> None: ...

class CodeFrames(_message.Message):
    __slots__ = ("first_frame", "frame_count", "codebook_count", "bits_per_code", "data", "scales")
    FIRST_FRAME_FIELD_NUMBER: _ClassVar[int]
    FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_COUNT_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_CODE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    first_frame: int
    frame_count: int
    codebook_count: int
    bits_per_code: int
    data: bytes
    scales: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, first_frame: _Optional[int] = ..., frame_count: _Optional[int] = ..., codebook_count: _Optional[int] = ..., bits_per_code: _Optional[int] = ..., data: _Optional[bytes] = ..., scales: _Optional[_Iterable[float]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "kind", "is_default", "sample_rate_hz", "channel_count", "frame_rate_hz", "codebook_count", "codebook_size", "max_duration", "parameter_count", "digest", "device", "precision", "latency", "license", "is_trained", "window", "modes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_COUNT_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    IS_TRAINED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: ModelKind
    is_default: bool
    sample_rate_hz: int
    channel_count: int
    frame_rate_hz: float
    codebook_count: int
    codebook_size: int
    max_duration: _duration_pb2.Duration
    parameter_count: int
    digest: str
    device: str
    precision: str
    latency: _duration_pb2.Duration
    license: str
    is_trained: bool
    window: _duration_pb2.Duration
    modes: _containers.RepeatedScalarFieldContainer[GenerationMode]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[ModelKind, str]] = ..., is_default: _Optional[bool] = ..., sample_rate_hz: _Optional[int] = ..., channel_count: _Optional[int] = ..., frame_rate_hz: _Optional[float] = ..., codebook_count: _Optional[int] = ..., codebook_size: _Optional[int] = ..., max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., parameter_count: _Optional[int] = ..., digest: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., license: _Optional[str] = ..., is_trained: _Optional[bool] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., modes: _Optional[_Iterable[_Union[GenerationMode, str]]] = ...) -> None: ...
