"""Pieces as files for HTTP clients: the flat request, and what makes the file."""

from __future__ import annotations

from collections.abc import Mapping

from antiphon.v1 import generator_pb2
from services.generator.requests import GenerationRequest
from services.models.audio_output import AudioEncoder, AudioOutput, Encoding
from services.models.loader import ModelInfo
from services.runtime.errors import FieldError, InvalidArgument, NotFound

FORMATS = {
    "": Encoding.WAV,
    "wav": Encoding.WAV,
    "flac": Encoding.FLAC,
    "ogg": Encoding.OGG_OPUS,
    "opus": Encoding.OGG_OPUS,
    "mp3": Encoding.MP3,
}
"""By the names that HTTP clients use."""


def config(
    request: generator_pb2.GenerateFileRequest, models: Mapping[str, ModelInfo]
) -> generator_pb2.GenerationConfig:
    """Write the flat request of HTTP clients as a config.

    Raises:
        InvalidArgument: `kind` is neither "music" nor "audio", the duration is no number of seconds, or the format is
            none that there is.
        NotFound: no model of that kind is loaded.
    """
    kinds = {"music": "music", "audio": "sound"}
    if request.kind not in kinds:
        raise InvalidArgument("kind", "must be music or audio")
    if request.format not in FORMATS:
        raise InvalidArgument("format", f"must be {', '.join(name for name in FORMATS if name)}")
    name = request.model or next((m.name for m in models.values() if m.kind == kinds[request.kind]), None)
    if name is None:
        raise NotFound("kind", f"no model for {request.kind} is loaded")
    full = generator_pb2.GenerationConfig(model=name)
    full.prompts.add(text=request.text)
    if request.HasField("duration"):
        if not -1e9 < request.duration < 1e9:
            raise InvalidArgument("duration", "must be a number of seconds")
        full.duration.FromNanoseconds(round(request.duration * 1e9))
    for name in ("temperature", "top_k", "top_p", "cfg_coef"):
        if request.HasField(name):
            setattr(full.sampling, name, getattr(request, name))
    if request.HasField("seed"):
        full.seed = request.seed
    return full


def encoder(
    request: generator_pb2.GenerateFileRequest, generation: GenerationRequest, info: ModelInfo, samples_per_frame: int
) -> AudioEncoder:
    """Return what makes the file that HTTP clients ask for. Its length is known, so its header can tell it."""
    rate, channels = info.sample_rate_hz, info.channel_count
    output = AudioOutput.resolve(FORMATS[request.format], own_rate_hz=rate, own_channel_count=channels)
    return AudioEncoder(output, rate, channels, (generation.frame_count or 0) * samples_per_frame)


def flat_fields(error: FieldError) -> FieldError:
    """Name the fields of a config's violations as GenerateFileRequest names them."""

    def flat(name: str) -> str:
        return "text" if name.startswith("config.prompts") else name.rpartition(".")[2]

    violations = [(flat(one.field), one.description) for one in error.violations]
    if isinstance(error, InvalidArgument):
        return InvalidArgument.several(violations)
    return type(error)(*violations[0])
