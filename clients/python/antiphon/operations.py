"""The unary calls: what each sends, where it goes, and how its response is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from google.api import httpbody_pb2
from google.protobuf.message import Message
from numpy.typing import NDArray

from antiphon.audio import OutputEncoding
from antiphon.codec_streams import DecodeOptions, EncodeOptions, put_decoding, put_encoding
from antiphon.codes import bits_per_code, pack_codes
from antiphon.ecdc import EcdcFile, form_of
from antiphon.errors import AntiphonError, NotFoundError, ProtocolError, UnavailableError
from antiphon.messages import (
    AudioFile,
    read_codes,
    read_encoding,
    read_file,
    read_finished,
    read_samples,
    read_started,
    refused,
    seconds,
)
from antiphon.results import (
    Audio,
    EncodedAudio,
    GeneratedAudio,
    HealthStatus,
    Model,
    ModelKind,
    ModelList,
    Service,
)
from antiphon.v1 import analyzer_pb2, audio_pb2, codec_pb2, generator_pb2

T = TypeVar("T")


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A call of `service` with one request, named as in its proto; `read` takes its response, or all of them."""

    service: Service
    method: str
    request: Message
    read: Callable[[Any], T]


def generate(request: generator_pb2.GenerateRequest) -> Operation[GeneratedAudio]:
    """Makes a whole piece."""

    def read(response: generator_pb2.GenerateResponse) -> GeneratedAudio:
        return GeneratedAudio(
            samples=read_samples(response.audio, response.started.format),
            sample_rate_hz=response.started.format.sample_rate_hz,
            started=read_started(response.started),
            finished=read_finished(response.finished),
            codes=read_codes(response.codes) if response.HasField("codes") else None,
        )

    return Operation(Service.GENERATOR, "Generate", request, read)


_LIST_REQUESTS: dict[Service, Callable[[], Message]] = {
    Service.GENERATOR: generator_pb2.GeneratorServiceListModelsRequest,
    Service.CODEC: codec_pb2.CodecServiceListModelsRequest,
    Service.ANALYZER: analyzer_pb2.AnalyzerServiceListModelsRequest,
}


def list_models(service: Service) -> Operation[tuple[Model, ...]]:
    """Lists the models of one service."""

    def read(response: generator_pb2.GeneratorServiceListModelsResponse) -> tuple[Model, ...]:
        return tuple(read_model(info, service) for info in response.models)

    return Operation(service, "ListModels", _LIST_REQUESTS[service](), read)


def join_models(replies: dict[Service, tuple[Model, ...] | AntiphonError]) -> ModelList:
    """Joins what the services said, or why they did not."""
    models: list[Model] = []
    errors: dict[Service, AntiphonError] = {}
    for service, reply in replies.items():
        if isinstance(reply, AntiphonError):
            errors[service] = reply
        else:
            models += reply
    return ModelList(tuple(models), errors)


def read_health(reply: str | AntiphonError) -> HealthStatus:
    """Returns how a service is, by the health service's word or by the error in its place.

    Raises:
        AntiphonError: The error says nothing about the service's health, as a wrong API key does.
    """
    if isinstance(reply, str):
        return HealthStatus(reply) if reply in HealthStatus.__members__ else HealthStatus.UNKNOWN
    if isinstance(reply, NotFoundError):
        return HealthStatus.UNKNOWN
    if isinstance(reply, UnavailableError):
        return HealthStatus.UNREACHABLE
    raise reply


def encode(audio: AudioFile, options: EncodeOptions) -> Operation[EncodedAudio]:
    """Turns an audio file into codes. Reads the file, so it may wait for the disk."""
    request = codec_pb2.EncodeRequest(audio=body_of(audio))
    put_encoding(request, options)

    return Operation(Service.CODEC, "Encode", request, _encoded)


def decode(codes: EncodedAudio | NDArray[np.integer], options: DecodeOptions) -> Operation[Audio]:
    """Turns codes into audio. What an EncodedAudio says of itself goes before the defaults."""

    def read(response: codec_pb2.DecodeResponse) -> Audio:
        samples = read_samples(response.audio, response.format)
        if len(samples) != response.sample_count:
            raise ProtocolError(f"audio: {len(samples)} samples, {response.sample_count} announced")
        return Audio(samples, response.format.sample_rate_hz)

    return Operation(Service.CODEC, "Decode", _decode_request(codes, "pcm_f32le", options), read)


def decode_file(
    codes: EncodedAudio | NDArray[np.integer], encoding: OutputEncoding, options: DecodeOptions
) -> Operation[bytes]:
    """Turns codes into the bytes of an audio file."""

    def read(response: codec_pb2.DecodeResponse) -> bytes:
        if read_encoding(response.format) != encoding:
            raise ProtocolError(f"format: {read_encoding(response.format)} came, {encoding} was asked for")
        return response.audio

    return Operation(Service.CODEC, "Decode", _decode_request(codes, encoding, options), read)


def _decode_request(
    codes: EncodedAudio | NDArray[np.integer], encoding: OutputEncoding, options: DecodeOptions
) -> codec_pb2.DecodeRequest:
    request = codec_pb2.DecodeRequest()
    put_decoding(request, options, encoding)
    try:
        if isinstance(codes, EncodedAudio):
            request.codes.CopyFrom(pack_codes(codes.codes, codes.bits_per_code, scales=codes.scales))
            request.model = request.model or codes.model
            request.sample_count = request.sample_count or codes.sample_count
        else:
            request.codes.CopyFrom(pack_codes(codes, bits_per_code(options.get("codebook_size", 1024))))
    except ValueError as error:
        raise refused("codes", str(error)) from None
    return request


def compress(encoded: EncodedAudio) -> Operation[EcdcFile]:
    """Makes an entropy-coded file."""
    try:
        name, form = form_of(encoded)
        codes = pack_codes(encoded.codes, encoded.bits_per_code, scales=encoded.scales)
    except ValueError as error:
        raise refused("codes", str(error)) from None
    request = codec_pb2.CompressCodesRequest(model=encoded.model, codes=codes, sample_count=encoded.sample_count)

    def read(response: codec_pb2.CompressCodesResponse) -> EcdcFile:
        books = encoded.codes.shape[0]
        return EcdcFile(name, encoded.sample_count, books, True, response.data, form, response.model)

    return Operation(Service.CODEC, "CompressCodes", request, read)


def expand(file: EcdcFile, model: str) -> Operation[EncodedAudio]:
    """Reads an entropy-coded file."""
    request = codec_pb2.ExpandCodesRequest(
        model=model or file.decoding_model,
        data=file.payload,
        codebook_count=file.codebook_count,
        sample_count=file.sample_count,
    )
    return Operation(Service.CODEC, "ExpandCodes", request, _encoded)


def _encoded(response: codec_pb2.EncodeResponse | codec_pb2.ExpandCodesResponse) -> EncodedAudio:
    return EncodedAudio(
        codes=read_codes(response.codes),
        bits_per_code=response.codes.bits_per_code,
        model=response.model,
        sample_count=response.sample_count,
        sample_rate_hz=response.format.sample_rate_hz,
        channel_count=response.format.channel_count,
        bandwidth_kbps=response.bandwidth_kbps,
        scales=tuple(response.codes.scales),
    )


_KINDS = {
    audio_pb2.MODEL_KIND_MUSIC: ModelKind.MUSIC,
    audio_pb2.MODEL_KIND_SOUND: ModelKind.SOUND,
    audio_pb2.MODEL_KIND_CODEC: ModelKind.CODEC,
    audio_pb2.MODEL_KIND_ANALYZER: ModelKind.ANALYZER,
}


def body_of(audio: AudioFile) -> httpbody_pb2.HttpBody:
    """Returns an audio file as requests carry it."""
    return httpbody_pb2.HttpBody(content_type="application/octet-stream", data=read_file(audio))


def read_model(info: audio_pb2.ModelInfo, service: Service) -> Model:
    """Reads what a service says of a model."""
    return Model(
        name=info.name,
        service=service,
        kind=_KINDS.get(info.kind, ModelKind.UNSPECIFIED),
        is_default=info.is_default,
        sample_rate_hz=info.sample_rate_hz,
        channel_count=info.channel_count,
        frame_rate_hz=info.frame_rate_hz,
        codebook_count=info.codebook_count,
        codebook_size=info.codebook_size,
        max_duration_seconds=seconds(info.max_duration),
        parameter_count=info.parameter_count,
        digest=info.digest,
        device=info.device,
        precision=info.precision,
        latency_seconds=seconds(info.latency),
        license=info.license,
        is_trained=info.is_trained,
    )
