"""From messages to checked requests. Every violation names its field, and all of them are told at once."""

from __future__ import annotations

import math
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from antiphon.v1 import audio_pb2, generator_pb2
from services.models.loader import ModelInfo
from services.models.sampling import Sampling
from services.runtime.errors import InvalidArgument, NotFound, Unimplemented

DEFAULT_DURATION_SECONDS = 10.0
MAX_PROMPTS = 8
MAX_PROMPT_CHARACTERS = 1000
ENCODINGS = (
    audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    audio_pb2.AUDIO_ENCODING_PCM_F32LE,
    audio_pb2.AUDIO_ENCODING_WAV,
)
_SMALL = 1e-6  # a duration of 0.58 s at 50 frames a second is 29 frames, whatever the floats say


@dataclass(frozen=True)
class GenerationRequest:
    """A request whose every field is in range."""

    model: str
    prompt: str
    frame_count: int
    sampling: Sampling
    encoding: audio_pb2.AudioEncoding = audio_pb2.AUDIO_ENCODING_PCM_F32LE
    include_codes: bool = False


def generation(config: generator_pb2.GenerationConfig, models: Mapping[str, ModelInfo]) -> GenerationRequest:
    """Check a config against the loaded models, the default first.

    Raises:
        NotFound: the model is not loaded.
        InvalidArgument: fields out of range, all of them named.
        Unimplemented: a field that this server does not serve.
    """
    info = _model(config.model, models)
    problems: list[tuple[str, str]] = []
    _check_prompts(config, problems)
    seconds = _seconds(config, info, problems)
    sampling = _sampling(config, info, problems)
    encoding = _encoding(config.output_format, info, problems)
    if problems:
        raise InvalidArgument.several(problems)
    _refuse_unserved(config)
    return GenerationRequest(
        model=info.name,
        prompt=config.prompts[0].text.strip(),
        frame_count=int(seconds * info.frame_rate_hz + _SMALL),
        sampling=sampling,
        encoding=encoding,
        include_codes=config.include_codes,
    )


def file_config(
    request: generator_pb2.GenerateFileRequest, models: Mapping[str, ModelInfo]
) -> generator_pb2.GenerationConfig:
    """Write the flat request of HTTP clients as a config for WAV.

    Raises:
        InvalidArgument: `kind` is neither "music" nor "audio", or the duration is no number of seconds.
        NotFound: no model of that kind is loaded.
    """
    kinds = {"music": "music", "audio": "sound"}
    if request.kind not in kinds:
        raise InvalidArgument("kind", "must be music or audio")
    name = request.model or next((m.name for m in models.values() if m.kind == kinds[request.kind]), None)
    if name is None:
        raise NotFound("kind", f"no model for {request.kind} is loaded")
    config = generator_pb2.GenerationConfig(model=name)
    config.prompts.add(text=request.text)
    if request.HasField("duration"):
        if not -1e9 < request.duration < 1e9:
            raise InvalidArgument("duration", "must be a number of seconds")
        config.duration.FromNanoseconds(round(request.duration * 1e9))
    for field in ("temperature", "top_k", "top_p", "cfg_coef"):
        if request.HasField(field):
            setattr(config.sampling, field, getattr(request, field))
    if request.HasField("seed"):
        config.seed = request.seed
    config.output_format.encoding = audio_pb2.AUDIO_ENCODING_WAV
    return config


def flat_fields(error: InvalidArgument) -> InvalidArgument:
    """Name the fields of a config's violations as GenerateFileRequest names them."""

    def flat(field: str) -> str:
        return "text" if field.startswith("config.prompts") else field.rpartition(".")[2]

    return InvalidArgument.several([(flat(v.field), v.description) for v in error.violations])


def effective(
    config: generator_pb2.GenerationConfig, request: GenerationRequest, info: ModelInfo
) -> generator_pb2.GenerationConfig:
    """Return the config with every default filled in."""
    full = generator_pb2.GenerationConfig()
    full.CopyFrom(config)
    full.model = request.model
    full.seed = request.sampling.seed
    full.prompts[0].weight = 1.0
    full.duration.FromNanoseconds(round(request.frame_count / info.frame_rate_hz * 1e9))
    for field in ("temperature", "top_k", "top_p", "cfg_coef", "use_sampling"):
        setattr(full.sampling, field, getattr(request.sampling, field))
    full.output_format.CopyFrom(audio_format(request, info))
    return full


def audio_format(request: GenerationRequest, info: ModelInfo) -> audio_pb2.AudioFormat:
    """Return the form of the audio that the request gets."""
    return audio_pb2.AudioFormat(
        encoding=request.encoding,
        sample_rate_hz=info.sample_rate_hz,
        channel_count=info.channel_count,
    )


def _model(name: str, models: Mapping[str, ModelInfo]) -> ModelInfo:
    if name and name not in models:
        raise NotFound("config.model", f"not loaded; loaded are: {', '.join(models)}")
    return models[name] if name else next(iter(models.values()))


def _check_prompts(config: generator_pb2.GenerationConfig, problems: list[tuple[str, str]]) -> None:
    if not 1 <= len(config.prompts) <= MAX_PROMPTS:
        problems.append(("config.prompts", f"must be 1 to {MAX_PROMPTS} prompts, are {len(config.prompts)}"))
    for index, prompt in enumerate(config.prompts[:MAX_PROMPTS]):
        field = f"config.prompts[{index}]"
        if len(prompt.text) > MAX_PROMPT_CHARACTERS:
            count = len(prompt.text)
            problems.append((f"{field}.text", f"must have at most {MAX_PROMPT_CHARACTERS} characters, has {count}"))
        elif any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in prompt.text):
            problems.append((f"{field}.text", "must not hold control characters"))
        if prompt.HasField("weight") and not (math.isfinite(prompt.weight) and prompt.weight > 0):
            problems.append((f"{field}.weight", "must be finite and above 0"))


def _seconds(config: generator_pb2.GenerationConfig, info: ModelInfo, problems: list[tuple[str, str]]) -> float:
    if not config.HasField("duration"):
        return min(DEFAULT_DURATION_SECONDS, info.max_duration_seconds)
    seconds = config.duration.seconds + config.duration.nanos * 1e-9
    if not 1.0 / info.frame_rate_hz - _SMALL <= seconds <= info.max_duration_seconds + _SMALL:
        low, high = 1.0 / info.frame_rate_hz, info.max_duration_seconds
        problems.append(("config.duration", f"must be {low:g} to {high:g} seconds, is {seconds:g}"))
    return seconds


def _sampling(config: generator_pb2.GenerationConfig, info: ModelInfo, problems: list[tuple[str, str]]) -> Sampling:
    given, default = config.sampling, Sampling()

    def number(field: str, low: float, high: float, *, open_low: bool = False) -> float:
        value: float = getattr(given, field) if given.HasField(field) else getattr(default, field)
        # Written so that NaN fails.
        if not ((low < value if open_low else low <= value) and value <= high):
            words = f"above {low:g} and at most {high:g}" if open_low else f"{low:g} to {high:g}"
            problems.append((f"config.sampling.{field}", f"must be {words}, is {value:g}"))
        return value

    top_k_given = given.HasField("top_k")
    return Sampling(
        temperature=number("temperature", 0.0, 10.0, open_low=True),
        top_k=int(number("top_k", 0, info.codebook_size)) if top_k_given else min(default.top_k, info.codebook_size),
        top_p=number("top_p", 0.0, 1.0),
        cfg_coef=number("cfg_coef", 0.0, 20.0),
        use_sampling=given.use_sampling if given.HasField("use_sampling") else True,
        seed=config.seed if config.HasField("seed") else secrets.randbits(63),
    )


def _encoding(form: audio_pb2.AudioFormat, info: ModelInfo, problems: list[tuple[str, str]]) -> audio_pb2.AudioEncoding:
    encoding = form.encoding or audio_pb2.AUDIO_ENCODING_PCM_S16LE
    field = "config.output_format"
    if encoding not in ENCODINGS:
        problems.append((f"{field}.encoding", "must be PCM_S16LE, PCM_F32LE or WAV"))
    if form.sample_rate_hz not in (0, info.sample_rate_hz):
        problems.append((f"{field}.sample_rate_hz", f"must be the model's {info.sample_rate_hz}, or 0"))
    if form.channel_count not in (0, info.channel_count):
        problems.append((f"{field}.channel_count", f"must be the model's {info.channel_count}, or 0"))
    return encoding


def _refuse_unserved(config: generator_pb2.GenerationConfig) -> None:
    if len(config.prompts) > 1:
        raise Unimplemented("config.prompts", "this server takes one prompt")
    for field in ("pacing", "prompt_audio", "resume"):
        if config.HasField(field):
            raise Unimplemented(f"config.{field}", "is not served by this server")
