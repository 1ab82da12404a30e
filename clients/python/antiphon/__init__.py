"""Antiphon's client: streams music and sound from text, and turns audio into codes and back.

    with antiphon.Client("localhost:8080") as client, antiphon.WavWriter("piano.wav") as wav:
        for chunk in client.stream_generate("slow sad piano", duration=10):
            wav.write(chunk)

`AsyncClient` does the same for asyncio. All errors are `AntiphonError`; `antiphon.errors` draws the tree.
"""

from antiphon.analysis import (
    Analysis,
    FeatureMap,
    Picture,
    Scores,
    Thresholds,
    Verdict,
    WindowAnalysis,
)
from antiphon.analysis_streams import AnalyzeStream, AsyncAnalyzeStream
from antiphon.async_client import AsyncClient
from antiphon.async_streams import AsyncDecodeStream, AsyncEncodeStream, AsyncGenerationStream
from antiphon.audio import Encoding, OutputEncoding, Samples, WavWriter
from antiphon.batch import GenerationRequest
from antiphon.client import Client
from antiphon.codec_streams import DecodeOptions, Decoder, EncodeOptions, Quality
from antiphon.codes import bits_per_code, pack_codes, unpack_codes
from antiphon.connection import VERSION as __version__  # noqa: N811
from antiphon.ecdc import EcdcFile, read_ecdc, write_ecdc
from antiphon.errors import (
    AntiphonError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from antiphon.generation import OnProgress
from antiphon.messages import AudioFile, GenerationOptions, Prompt
from antiphon.results import (
    Audio,
    Chunk,
    EncodedAudio,
    EncodedChunk,
    Finished,
    FinishReason,
    GeneratedAudio,
    HealthStatus,
    Model,
    ModelKind,
    ModelList,
    Progress,
    Service,
    Started,
    Timings,
)
from antiphon.streams import DecodeStream, EncodeStream, GenerationStream

__all__ = [
    "Analysis",
    "AnalyzeStream",
    "AntiphonError",
    "AsyncAnalyzeStream",
    "AsyncClient",
    "AsyncDecodeStream",
    "AsyncEncodeStream",
    "AsyncGenerationStream",
    "Audio",
    "AudioFile",
    "CancelledError",
    "Chunk",
    "Client",
    "DeadlineExceededError",
    "DecodeOptions",
    "DecodeStream",
    "Decoder",
    "EcdcFile",
    "EncodeOptions",
    "EncodeStream",
    "EncodedAudio",
    "EncodedChunk",
    "Encoding",
    "FailedPreconditionError",
    "FeatureMap",
    "FieldViolation",
    "FinishReason",
    "Finished",
    "GeneratedAudio",
    "GenerationOptions",
    "GenerationRequest",
    "GenerationStream",
    "HealthStatus",
    "InternalError",
    "InvalidArgumentError",
    "Model",
    "ModelKind",
    "ModelList",
    "NotFoundError",
    "OnProgress",
    "OutputEncoding",
    "PermissionDeniedError",
    "Picture",
    "Progress",
    "Prompt",
    "ProtocolError",
    "Quality",
    "ResourceExhaustedError",
    "Samples",
    "Scores",
    "Service",
    "Started",
    "Thresholds",
    "Timings",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Verdict",
    "WavWriter",
    "WindowAnalysis",
    "__version__",
    "bits_per_code",
    "pack_codes",
    "read_ecdc",
    "unpack_codes",
    "write_ecdc",
]
