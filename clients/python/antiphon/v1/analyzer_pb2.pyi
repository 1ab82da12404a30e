import datetime

from antiphon.v1 import audio_pb2 as _audio_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import httpbody_pb2 as _httpbody_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_REAL: _ClassVar[Verdict]
    VERDICT_GENERATED: _ClassVar[Verdict]
    VERDICT_INCONCLUSIVE: _ClassVar[Verdict]

class Discriminator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISCRIMINATOR_UNSPECIFIED: _ClassVar[Discriminator]
    DISCRIMINATOR_MPD: _ClassVar[Discriminator]
    DISCRIMINATOR_MSD: _ClassVar[Discriminator]
    DISCRIMINATOR_MSSTFTD: _ClassVar[Discriminator]
VERDICT_UNSPECIFIED: Verdict
VERDICT_REAL: Verdict
VERDICT_GENERATED: Verdict
VERDICT_INCONCLUSIVE: Verdict
DISCRIMINATOR_UNSPECIFIED: Discriminator
DISCRIMINATOR_MPD: Discriminator
DISCRIMINATOR_MSD: Discriminator
DISCRIMINATOR_MSSTFTD: Discriminator

class FeatureMap(_message.Message):
    __slots__ = ("discriminator", "sub_discriminator", "layer", "shape", "data")
    DISCRIMINATOR_FIELD_NUMBER: _ClassVar[int]
    SUB_DISCRIMINATOR_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    discriminator: Discriminator
    sub_discriminator: int
    layer: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, discriminator: _Optional[_Union[Discriminator, str]] = ..., sub_discriminator: _Optional[int] = ..., layer: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class EvidenceImage(_message.Message):
    __slots__ = ("name", "png", "start", "duration")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    png: bytes
    start: _duration_pb2.Duration
    duration: _duration_pb2.Duration
    def __init__(self, name: _Optional[str] = ..., png: _Optional[bytes] = ..., start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WindowResult(_message.Message):
    __slots__ = ("start", "duration", "mpd_score", "msd_score", "msstftd_score", "generated_probability", "verdict")
    START_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    MPD_SCORE_FIELD_NUMBER: _ClassVar[int]
    MSD_SCORE_FIELD_NUMBER: _ClassVar[int]
    MSSTFTD_SCORE_FIELD_NUMBER: _ClassVar[int]
    GENERATED_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    start: _duration_pb2.Duration
    duration: _duration_pb2.Duration
    mpd_score: float
    msd_score: float
    msstftd_score: float
    generated_probability: float
    verdict: Verdict
    def __init__(self, start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., mpd_score: _Optional[float] = ..., msd_score: _Optional[float] = ..., msstftd_score: _Optional[float] = ..., generated_probability: _Optional[float] = ..., verdict: _Optional[_Union[Verdict, str]] = ...) -> None: ...

class AnalyzerServiceListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AnalyzerServiceListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_audio_pb2.ModelInfo]
    def __init__(self, models: _Optional[_Iterable[_Union[_audio_pb2.ModelInfo, _Mapping]]] = ...) -> None: ...

class AnalyzeRequest(_message.Message):
    __slots__ = ("model", "audio", "threshold", "include_feature_maps", "include_images")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FEATURE_MAPS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_IMAGES_FIELD_NUMBER: _ClassVar[int]
    model: str
    audio: _httpbody_pb2.HttpBody
    threshold: float
    include_feature_maps: bool
    include_images: bool
    def __init__(self, model: _Optional[str] = ..., audio: _Optional[_Union[_httpbody_pb2.HttpBody, _Mapping]] = ..., threshold: _Optional[float] = ..., include_feature_maps: _Optional[bool] = ..., include_images: _Optional[bool] = ...) -> None: ...

class AnalyzeResponse(_message.Message):
    __slots__ = ("mpd_score", "msd_score", "msstftd_score", "feature_maps", "is_real", "verdict", "generated_probability", "windows", "model", "training_sources", "images", "reason", "generated_threshold", "real_threshold")
    MPD_SCORE_FIELD_NUMBER: _ClassVar[int]
    MSD_SCORE_FIELD_NUMBER: _ClassVar[int]
    MSSTFTD_SCORE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_MAPS_FIELD_NUMBER: _ClassVar[int]
    IS_REAL_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    GENERATED_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TRAINING_SOURCES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GENERATED_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REAL_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    mpd_score: float
    msd_score: float
    msstftd_score: float
    feature_maps: _containers.RepeatedCompositeFieldContainer[FeatureMap]
    is_real: bool
    verdict: Verdict
    generated_probability: float
    windows: _containers.RepeatedCompositeFieldContainer[WindowResult]
    model: _audio_pb2.ModelInfo
    training_sources: _containers.RepeatedScalarFieldContainer[str]
    images: _containers.RepeatedCompositeFieldContainer[EvidenceImage]
    reason: str
    generated_threshold: float
    real_threshold: float
    def __init__(self, mpd_score: _Optional[float] = ..., msd_score: _Optional[float] = ..., msstftd_score: _Optional[float] = ..., feature_maps: _Optional[_Iterable[_Union[FeatureMap, _Mapping]]] = ..., is_real: _Optional[bool] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., generated_probability: _Optional[float] = ..., windows: _Optional[_Iterable[_Union[WindowResult, _Mapping]]] = ..., model: _Optional[_Union[_audio_pb2.ModelInfo, _Mapping]] = ..., training_sources: _Optional[_Iterable[str]] = ..., images: _Optional[_Iterable[_Union[EvidenceImage, _Mapping]]] = ..., reason: _Optional[str] = ..., generated_threshold: _Optional[float] = ..., real_threshold: _Optional[float] = ...) -> None: ...

class StreamAnalyzeConfig(_message.Message):
    __slots__ = ("model", "format", "threshold")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    model: str
    format: _audio_pb2.AudioFormat
    threshold: float
    def __init__(self, model: _Optional[str] = ..., format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., threshold: _Optional[float] = ...) -> None: ...

class StreamAnalyzeRequest(_message.Message):
    __slots__ = ("config", "audio")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    config: StreamAnalyzeConfig
    audio: _audio_pb2.AudioChunk
    def __init__(self, config: _Optional[_Union[StreamAnalyzeConfig, _Mapping]] = ..., audio: _Optional[_Union[_audio_pb2.AudioChunk, _Mapping]] = ...) -> None: ...

class StreamAnalyzeResponse(_message.Message):
    __slots__ = ("window", "finished")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    window: WindowResult
    finished: AnalyzeResponse
    def __init__(self, window: _Optional[_Union[WindowResult, _Mapping]] = ..., finished: _Optional[_Union[AnalyzeResponse, _Mapping]] = ...) -> None: ...
