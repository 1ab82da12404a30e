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

class Decoder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODER_UNSPECIFIED: _ClassVar[Decoder]
    DECODER_ENCODEC: _ClassVar[Decoder]
    DECODER_MULTI_BAND_DIFFUSION: _ClassVar[Decoder]

class Quality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUALITY_UNSPECIFIED: _ClassVar[Quality]
    QUALITY_DRAFT: _ClassVar[Quality]
    QUALITY_STANDARD: _ClassVar[Quality]
    QUALITY_HIGH: _ClassVar[Quality]
DECODER_UNSPECIFIED: Decoder
DECODER_ENCODEC: Decoder
DECODER_MULTI_BAND_DIFFUSION: Decoder
QUALITY_UNSPECIFIED: Quality
QUALITY_DRAFT: Quality
QUALITY_STANDARD: Quality
QUALITY_HIGH: Quality

class CodecServiceListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CodecServiceListModelsResponse(_message.Message):
    __slots__ = ("models", "codecs")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_audio_pb2.ModelInfo]
    codecs: _containers.RepeatedCompositeFieldContainer[CodecInfo]
    def __init__(self, models: _Optional[_Iterable[_Union[_audio_pb2.ModelInfo, _Mapping]]] = ..., codecs: _Optional[_Iterable[_Union[CodecInfo, _Mapping]]] = ...) -> None: ...

class CodecInfo(_message.Message):
    __slots__ = ("name", "samples_per_frame", "usual_codebook_count", "decoders", "is_streamable", "encode_latency", "decode_latency", "encode_start", "decode_start", "segment_frames", "segment_stride")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_FRAME_FIELD_NUMBER: _ClassVar[int]
    USUAL_CODEBOOK_COUNT_FIELD_NUMBER: _ClassVar[int]
    DECODERS_FIELD_NUMBER: _ClassVar[int]
    IS_STREAMABLE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_LATENCY_FIELD_NUMBER: _ClassVar[int]
    DECODE_LATENCY_FIELD_NUMBER: _ClassVar[int]
    ENCODE_START_FIELD_NUMBER: _ClassVar[int]
    DECODE_START_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FRAMES_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_STRIDE_FIELD_NUMBER: _ClassVar[int]
    name: str
    samples_per_frame: int
    usual_codebook_count: int
    decoders: _containers.RepeatedScalarFieldContainer[Decoder]
    is_streamable: bool
    encode_latency: _duration_pb2.Duration
    decode_latency: _duration_pb2.Duration
    encode_start: _duration_pb2.Duration
    decode_start: _duration_pb2.Duration
    segment_frames: int
    segment_stride: int
    def __init__(self, name: _Optional[str] = ..., samples_per_frame: _Optional[int] = ..., usual_codebook_count: _Optional[int] = ..., decoders: _Optional[_Iterable[_Union[Decoder, str]]] = ..., is_streamable: _Optional[bool] = ..., encode_latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decode_latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., encode_start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decode_start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., segment_frames: _Optional[int] = ..., segment_stride: _Optional[int] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("model", "audio", "bandwidth_kbps", "codebook_count", "quality", "include_values")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_KBPS_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VALUES_FIELD_NUMBER: _ClassVar[int]
    model: str
    audio: _httpbody_pb2.HttpBody
    bandwidth_kbps: float
    codebook_count: int
    quality: Quality
    include_values: bool
    def __init__(self, model: _Optional[str] = ..., audio: _Optional[_Union[_httpbody_pb2.HttpBody, _Mapping]] = ..., bandwidth_kbps: _Optional[float] = ..., codebook_count: _Optional[int] = ..., quality: _Optional[_Union[Quality, str]] = ..., include_values: _Optional[bool] = ...) -> None: ...

class CodebookValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("model", "codes", "sample_count", "format", "bandwidth_kbps", "values", "decoder")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_KBPS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    model: str
    codes: _audio_pb2.CodeFrames
    sample_count: int
    format: _audio_pb2.AudioFormat
    bandwidth_kbps: float
    values: _containers.RepeatedCompositeFieldContainer[CodebookValues]
    decoder: Decoder
    def __init__(self, model: _Optional[str] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., sample_count: _Optional[int] = ..., format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., bandwidth_kbps: _Optional[float] = ..., values: _Optional[_Iterable[_Union[CodebookValues, _Mapping]]] = ..., decoder: _Optional[_Union[Decoder, str]] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("model", "codes", "sample_count", "output_format", "decoder", "quality", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: str
    codes: _audio_pb2.CodeFrames
    sample_count: int
    output_format: _audio_pb2.AudioFormat
    decoder: Decoder
    quality: Quality
    seed: int
    def __init__(self, model: _Optional[str] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., sample_count: _Optional[int] = ..., output_format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., decoder: _Optional[_Union[Decoder, str]] = ..., quality: _Optional[_Union[Quality, str]] = ..., seed: _Optional[int] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("audio", "format", "sample_count", "decoder")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    audio: bytes
    format: _audio_pb2.AudioFormat
    sample_count: int
    decoder: Decoder
    def __init__(self, audio: _Optional[bytes] = ..., format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., sample_count: _Optional[int] = ..., decoder: _Optional[_Union[Decoder, str]] = ...) -> None: ...

class DecodeFileRequest(_message.Message):
    __slots__ = ("model", "codes", "values", "sample_count", "output_format", "decoder", "quality", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: str
    codes: _audio_pb2.CodeFrames
    values: _containers.RepeatedCompositeFieldContainer[CodebookValues]
    sample_count: int
    output_format: _audio_pb2.AudioFormat
    decoder: Decoder
    quality: Quality
    seed: int
    def __init__(self, model: _Optional[str] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., values: _Optional[_Iterable[_Union[CodebookValues, _Mapping]]] = ..., sample_count: _Optional[int] = ..., output_format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., decoder: _Optional[_Union[Decoder, str]] = ..., quality: _Optional[_Union[Quality, str]] = ..., seed: _Optional[int] = ...) -> None: ...

class StreamEncodeConfig(_message.Message):
    __slots__ = ("model", "format", "bandwidth_kbps", "codebook_count", "quality")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_KBPS_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    format: _audio_pb2.AudioFormat
    bandwidth_kbps: float
    codebook_count: int
    quality: Quality
    def __init__(self, model: _Optional[str] = ..., format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., bandwidth_kbps: _Optional[float] = ..., codebook_count: _Optional[int] = ..., quality: _Optional[_Union[Quality, str]] = ...) -> None: ...

class StreamEncodeRequest(_message.Message):
    __slots__ = ("config", "audio")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    config: StreamEncodeConfig
    audio: _audio_pb2.AudioChunk
    def __init__(self, config: _Optional[_Union[StreamEncodeConfig, _Mapping]] = ..., audio: _Optional[_Union[_audio_pb2.AudioChunk, _Mapping]] = ...) -> None: ...

class StreamEncodeResponse(_message.Message):
    __slots__ = ("started", "codes", "finished")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    started: EncodeResponse
    codes: _audio_pb2.CodeFrames
    finished: EncodeResponse
    def __init__(self, started: _Optional[_Union[EncodeResponse, _Mapping]] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., finished: _Optional[_Union[EncodeResponse, _Mapping]] = ...) -> None: ...

class StreamDecodeConfig(_message.Message):
    __slots__ = ("model", "output_format", "decoder", "quality", "sample_count")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    model: str
    output_format: _audio_pb2.AudioFormat
    decoder: Decoder
    quality: Quality
    sample_count: int
    def __init__(self, model: _Optional[str] = ..., output_format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., decoder: _Optional[_Union[Decoder, str]] = ..., quality: _Optional[_Union[Quality, str]] = ..., sample_count: _Optional[int] = ...) -> None: ...

class StreamDecodeRequest(_message.Message):
    __slots__ = ("config", "codes")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    config: StreamDecodeConfig
    codes: _audio_pb2.CodeFrames
    def __init__(self, config: _Optional[_Union[StreamDecodeConfig, _Mapping]] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ...) -> None: ...

class StreamDecodeResponse(_message.Message):
    __slots__ = ("audio", "format", "decoder")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    audio: _audio_pb2.AudioChunk
    format: _audio_pb2.AudioFormat
    decoder: Decoder
    def __init__(self, audio: _Optional[_Union[_audio_pb2.AudioChunk, _Mapping]] = ..., format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., decoder: _Optional[_Union[Decoder, str]] = ...) -> None: ...

class CompressCodesRequest(_message.Message):
    __slots__ = ("model", "codes", "sample_count")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    model: str
    codes: _audio_pb2.CodeFrames
    sample_count: int
    def __init__(self, model: _Optional[str] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., sample_count: _Optional[int] = ...) -> None: ...

class CompressCodesResponse(_message.Message):
    __slots__ = ("model", "data")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    model: str
    data: bytes
    def __init__(self, model: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ExpandCodesRequest(_message.Message):
    __slots__ = ("model", "data", "codebook_count", "sample_count")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_COUNT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    model: str
    data: bytes
    codebook_count: int
    sample_count: int
    def __init__(self, model: _Optional[str] = ..., data: _Optional[bytes] = ..., codebook_count: _Optional[int] = ..., sample_count: _Optional[int] = ...) -> None: ...

class ExpandCodesResponse(_message.Message):
    __slots__ = ("model", "codes", "sample_count", "format", "bandwidth_kbps")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_KBPS_FIELD_NUMBER: _ClassVar[int]
    model: str
    codes: _audio_pb2.CodeFrames
    sample_count: int
    format: _audio_pb2.AudioFormat
    bandwidth_kbps: float
    def __init__(self, model: _Optional[str] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., sample_count: _Optional[int] = ..., format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., bandwidth_kbps: _Optional[float] = ...) -> None: ...
