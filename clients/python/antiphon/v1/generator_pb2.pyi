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

class PromptAudioUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROMPT_AUDIO_USE_UNSPECIFIED: _ClassVar[PromptAudioUse]
    PROMPT_AUDIO_USE_CONTINUATION: _ClassVar[PromptAudioUse]
    PROMPT_AUDIO_USE_MELODY: _ClassVar[PromptAudioUse]
PROMPT_AUDIO_USE_UNSPECIFIED: PromptAudioUse
PROMPT_AUDIO_USE_CONTINUATION: PromptAudioUse
PROMPT_AUDIO_USE_MELODY: PromptAudioUse

class WeightedPrompt(_message.Message):
    __slots__ = ("text", "weight")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    text: str
    weight: float
    def __init__(self, text: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class SamplingParameters(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "cfg_coef", "use_sampling")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    CFG_COEF_FIELD_NUMBER: _ClassVar[int]
    USE_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    cfg_coef: float
    use_sampling: bool
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., cfg_coef: _Optional[float] = ..., use_sampling: _Optional[bool] = ...) -> None: ...

class GenerationConfig(_message.Message):
    __slots__ = ("model", "prompts", "duration", "sampling", "seed", "output_format", "include_codes", "pacing", "prompt_audio", "resume", "endless", "extend_stride", "two_step_cfg")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_CODES_FIELD_NUMBER: _ClassVar[int]
    PACING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_AUDIO_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    ENDLESS_FIELD_NUMBER: _ClassVar[int]
    EXTEND_STRIDE_FIELD_NUMBER: _ClassVar[int]
    TWO_STEP_CFG_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompts: _containers.RepeatedCompositeFieldContainer[WeightedPrompt]
    duration: _duration_pb2.Duration
    sampling: SamplingParameters
    seed: int
    output_format: _audio_pb2.AudioFormat
    include_codes: bool
    pacing: Pacing
    prompt_audio: PromptAudioConfig
    resume: ResumePoint
    endless: bool
    extend_stride: _duration_pb2.Duration
    two_step_cfg: bool
    def __init__(self, model: _Optional[str] = ..., prompts: _Optional[_Iterable[_Union[WeightedPrompt, _Mapping]]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., sampling: _Optional[_Union[SamplingParameters, _Mapping]] = ..., seed: _Optional[int] = ..., output_format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., include_codes: _Optional[bool] = ..., pacing: _Optional[_Union[Pacing, _Mapping]] = ..., prompt_audio: _Optional[_Union[PromptAudioConfig, _Mapping]] = ..., resume: _Optional[_Union[ResumePoint, _Mapping]] = ..., endless: _Optional[bool] = ..., extend_stride: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., two_step_cfg: _Optional[bool] = ...) -> None: ...

class Pacing(_message.Message):
    __slots__ = ("initial_credit",)
    INITIAL_CREDIT_FIELD_NUMBER: _ClassVar[int]
    initial_credit: _duration_pb2.Duration
    def __init__(self, initial_credit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PromptAudioConfig(_message.Message):
    __slots__ = ("format", "use")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    format: _audio_pb2.AudioFormat
    use: PromptAudioUse
    def __init__(self, format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., use: _Optional[_Union[PromptAudioUse, str]] = ...) -> None: ...

class ResumePoint(_message.Message):
    __slots__ = ("codes", "received_samples", "updates", "model_version")
    CODES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    codes: _audio_pb2.CodeFrames
    received_samples: int
    updates: _containers.RepeatedCompositeFieldContainer[AppliedUpdate]
    model_version: str
    def __init__(self, codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., received_samples: _Optional[int] = ..., updates: _Optional[_Iterable[_Union[AppliedUpdate, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...

class StreamGenerateRequest(_message.Message):
    __slots__ = ("config", "prompt_audio", "control", "update", "credit")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PROMPT_AUDIO_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    config: GenerationConfig
    prompt_audio: PromptAudio
    control: GenerationControl
    update: GenerationUpdate
    credit: Credit
    def __init__(self, config: _Optional[_Union[GenerationConfig, _Mapping]] = ..., prompt_audio: _Optional[_Union[PromptAudio, _Mapping]] = ..., control: _Optional[_Union[GenerationControl, _Mapping]] = ..., update: _Optional[_Union[GenerationUpdate, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ...) -> None: ...

class PromptAudio(_message.Message):
    __slots__ = ("data", "is_final")
    DATA_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    is_final: bool
    def __init__(self, data: _Optional[bytes] = ..., is_final: _Optional[bool] = ...) -> None: ...

class GenerationControl(_message.Message):
    __slots__ = ("action",)
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTION_UNSPECIFIED: _ClassVar[GenerationControl.Action]
        ACTION_PAUSE: _ClassVar[GenerationControl.Action]
        ACTION_RESUME: _ClassVar[GenerationControl.Action]
        ACTION_STOP: _ClassVar[GenerationControl.Action]
    ACTION_UNSPECIFIED: GenerationControl.Action
    ACTION_PAUSE: GenerationControl.Action
    ACTION_RESUME: GenerationControl.Action
    ACTION_STOP: GenerationControl.Action
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: GenerationControl.Action
    def __init__(self, action: _Optional[_Union[GenerationControl.Action, str]] = ...) -> None: ...

class GenerationUpdate(_message.Message):
    __slots__ = ("prompts", "sampling", "blend_steps")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    BLEND_STEPS_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[WeightedPrompt]
    sampling: SamplingParameters
    blend_steps: int
    def __init__(self, prompts: _Optional[_Iterable[_Union[WeightedPrompt, _Mapping]]] = ..., sampling: _Optional[_Union[SamplingParameters, _Mapping]] = ..., blend_steps: _Optional[int] = ...) -> None: ...

class AppliedUpdate(_message.Message):
    __slots__ = ("step", "update")
    STEP_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    step: int
    update: GenerationUpdate
    def __init__(self, step: _Optional[int] = ..., update: _Optional[_Union[GenerationUpdate, _Mapping]] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("duration",)
    DURATION_FIELD_NUMBER: _ClassVar[int]
    duration: _duration_pb2.Duration
    def __init__(self, duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StreamGenerateResponse(_message.Message):
    __slots__ = ("started", "progress", "audio", "codes", "finished", "updated")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    started: GenerationStarted
    progress: GenerationProgress
    audio: _audio_pb2.AudioChunk
    codes: _audio_pb2.CodeFrames
    finished: GenerationFinished
    updated: AppliedUpdate
    def __init__(self, started: _Optional[_Union[GenerationStarted, _Mapping]] = ..., progress: _Optional[_Union[GenerationProgress, _Mapping]] = ..., audio: _Optional[_Union[_audio_pb2.AudioChunk, _Mapping]] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., finished: _Optional[_Union[GenerationFinished, _Mapping]] = ..., updated: _Optional[_Union[AppliedUpdate, _Mapping]] = ...) -> None: ...

class GenerationStarted(_message.Message):
    __slots__ = ("config", "format", "frame_rate_hz", "total_samples", "total_steps", "model_version")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    config: GenerationConfig
    format: _audio_pb2.AudioFormat
    frame_rate_hz: float
    total_samples: int
    total_steps: int
    model_version: str
    def __init__(self, config: _Optional[_Union[GenerationConfig, _Mapping]] = ..., format: _Optional[_Union[_audio_pb2.AudioFormat, _Mapping]] = ..., frame_rate_hz: _Optional[float] = ..., total_samples: _Optional[int] = ..., total_steps: _Optional[int] = ..., model_version: _Optional[str] = ...) -> None: ...

class GenerationProgress(_message.Message):
    __slots__ = ("steps", "total_steps")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    total_steps: int
    def __init__(self, steps: _Optional[int] = ..., total_steps: _Optional[int] = ...) -> None: ...

class GenerationFinished(_message.Message):
    __slots__ = ("reason", "audio_duration", "queue_time", "first_audio_time", "total_time", "steps")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[GenerationFinished.Reason]
        REASON_COMPLETE: _ClassVar[GenerationFinished.Reason]
        REASON_STOPPED: _ClassVar[GenerationFinished.Reason]
    REASON_UNSPECIFIED: GenerationFinished.Reason
    REASON_COMPLETE: GenerationFinished.Reason
    REASON_STOPPED: GenerationFinished.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    AUDIO_DURATION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_FIELD_NUMBER: _ClassVar[int]
    FIRST_AUDIO_TIME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TIME_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    reason: GenerationFinished.Reason
    audio_duration: _duration_pb2.Duration
    queue_time: _duration_pb2.Duration
    first_audio_time: _duration_pb2.Duration
    total_time: _duration_pb2.Duration
    steps: int
    def __init__(self, reason: _Optional[_Union[GenerationFinished.Reason, str]] = ..., audio_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., first_audio_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., steps: _Optional[int] = ...) -> None: ...

class GeneratorServiceListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GeneratorServiceListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_audio_pb2.ModelInfo]
    def __init__(self, models: _Optional[_Iterable[_Union[_audio_pb2.ModelInfo, _Mapping]]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("config", "prompt_audio")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PROMPT_AUDIO_FIELD_NUMBER: _ClassVar[int]
    config: GenerationConfig
    prompt_audio: bytes
    def __init__(self, config: _Optional[_Union[GenerationConfig, _Mapping]] = ..., prompt_audio: _Optional[bytes] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "audio", "codes", "finished")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    started: GenerationStarted
    audio: bytes
    codes: _audio_pb2.CodeFrames
    finished: GenerationFinished
    def __init__(self, started: _Optional[_Union[GenerationStarted, _Mapping]] = ..., audio: _Optional[bytes] = ..., codes: _Optional[_Union[_audio_pb2.CodeFrames, _Mapping]] = ..., finished: _Optional[_Union[GenerationFinished, _Mapping]] = ...) -> None: ...

class OpenGenerationRequest(_message.Message):
    __slots__ = ("config", "prompt_audio")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PROMPT_AUDIO_FIELD_NUMBER: _ClassVar[int]
    config: GenerationConfig
    prompt_audio: bytes
    def __init__(self, config: _Optional[_Union[GenerationConfig, _Mapping]] = ..., prompt_audio: _Optional[bytes] = ...) -> None: ...

class OpenGenerationResponse(_message.Message):
    __slots__ = ("stream_id", "response")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    response: StreamGenerateResponse
    def __init__(self, stream_id: _Optional[str] = ..., response: _Optional[_Union[StreamGenerateResponse, _Mapping]] = ...) -> None: ...

class ControlGenerationRequest(_message.Message):
    __slots__ = ("stream_id", "control", "update", "credit")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    control: GenerationControl
    update: GenerationUpdate
    credit: Credit
    def __init__(self, stream_id: _Optional[str] = ..., control: _Optional[_Union[GenerationControl, _Mapping]] = ..., update: _Optional[_Union[GenerationUpdate, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ...) -> None: ...

class ControlGenerationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GenerateBatchRequest(_message.Message):
    __slots__ = ("configs",)
    CONFIGS_FIELD_NUMBER: _ClassVar[int]
    configs: _containers.RepeatedCompositeFieldContainer[GenerationConfig]
    def __init__(self, configs: _Optional[_Iterable[_Union[GenerationConfig, _Mapping]]] = ...) -> None: ...

class GenerateBatchResponse(_message.Message):
    __slots__ = ("index", "response")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    index: int
    response: StreamGenerateResponse
    def __init__(self, index: _Optional[int] = ..., response: _Optional[_Union[StreamGenerateResponse, _Mapping]] = ...) -> None: ...

class GenerateFileRequest(_message.Message):
    __slots__ = ("kind", "text", "duration", "temperature", "top_k", "top_p", "cfg_coef", "seed", "model", "format")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    CFG_COEF_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    text: str
    duration: float
    temperature: float
    top_k: int
    top_p: float
    cfg_coef: float
    seed: int
    model: str
    format: str
    def __init__(self, kind: _Optional[str] = ..., text: _Optional[str] = ..., duration: _Optional[float] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., cfg_coef: _Optional[float] = ..., seed: _Optional[int] = ..., model: _Optional[str] = ..., format: _Optional[str] = ...) -> None: ...
