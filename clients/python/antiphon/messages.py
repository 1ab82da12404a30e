"""A generation's typed arguments to a request, and its responses to typed values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from numpy.typing import NDArray

from antiphon.audio import Encoding, OutputEncoding, from_pcm
from antiphon.codes import unpack_codes
from antiphon.errors import FieldViolation, InvalidArgumentError, ProtocolError
from antiphon.results import Finished, FinishReason, Started, Timings
from antiphon.v1 import audio_pb2, generator_pb2

AudioFile = bytes | str | os.PathLike[str]
"""The bytes of an audio file (WAV, FLAC, Ogg, MP3 and others), or its path."""
Prompt = str | Sequence[str | tuple[str, float]]
"""A text, or up to eight texts, each alone or with its weight."""


class GenerationOptions(TypedDict, total=False):
    """What may be said of a generation besides its prompt. What is left out is the server's default.

    Values out of range raise InvalidArgumentError; an unknown model NotFoundError.
    """

    model: str
    """Name of the model as in `list_models`; default: the server's."""
    duration: float
    """Seconds, above 0 and at most the model's `max_duration_seconds`; default 10."""
    temperature: float | None
    """Divides the logits; above 0 and at most 10; default 1."""
    top_k: int | None
    """Draw from the k likeliest tokens; 0 for no limit; default 250. Not used when top_p is above 0."""
    top_p: float | None
    """Draw from the likeliest tokens whose probabilities sum to p, 0 to 1; 0, the default, for no limit."""
    cfg_coef: float | None
    """Strength of classifier-free guidance, 0 to 20; 1 for none; default 3."""
    use_sampling: bool | None
    """False takes the likeliest token always; default True."""
    seed: int | None
    """The same seed with the same other arguments gives the same tokens; default: drawn by the server."""
    include_codes: bool
    """True to get the codes as well."""
    encoding: Encoding
    """How the samples travel; default "pcm_f32le"."""
    endless: bool
    """True for a piece that goes on until `stop`; only `stream_generate` makes one, and `duration` is not used."""
    initial_credit: float | None
    """Seconds of audio that the server may send before `grant`; default: no limit. For `stream_generate`."""
    continue_from: AudioFile | None
    """An audio file, its bytes or its path: the piece begins with it and goes on; `duration` counts both."""
    melody: AudioFile | None
    """An audio file whose melody the piece keeps; for melody checkpoints, and not with `continue_from`."""
    extend_stride: float | None
    """Seconds from one window of a long piece to the next; default: the model's."""
    two_step_cfg: bool
    """True prepares the unconditional half of guidance by itself, as AudioCraft's option of this name."""


def generation_request(
    prompt: Prompt,
    *,
    model: str = "",
    duration: float = 10.0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    cfg_coef: float | None = None,
    use_sampling: bool | None = None,
    seed: int | None = None,
    include_codes: bool = False,
    encoding: Encoding = "pcm_f32le",
    endless: bool = False,
    initial_credit: float | None = None,
    continue_from: AudioFile | None = None,
    melody: AudioFile | None = None,
    extend_stride: float | None = None,
    two_step_cfg: bool = False,
) -> generator_pb2.GenerateRequest:
    """Builds a config and the bytes of its audio prompt. Ranges are the server's to check, as it knows the model.

    Raises:
        InvalidArgumentError: A value that the wire can't carry, such as a negative seed or a duration of NaN.
        OSError: An audio file can't be read.
    """
    config = generator_pb2.GenerationConfig(include_codes=include_codes, output_format=output_format(encoding))
    put(config, "model", model)
    _put_prompts(config, prompt)
    if endless:
        config.endless = True
    else:
        put_duration(config.duration, duration, "duration")
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "cfg_coef": cfg_coef}
    _put_sampling(config, sampling | {"use_sampling": use_sampling})
    put(config, "seed", seed)
    if initial_credit is not None:
        put_duration(config.pacing.initial_credit, initial_credit, "pacing.initial_credit")
    if extend_stride is not None:
        put_duration(config.extend_stride, extend_stride, "extend_stride")
    config.two_step_cfg = two_step_cfg
    request = generator_pb2.GenerateRequest(config=config)
    if continue_from is not None and melody is not None:
        raise refused("melody", "give either this or continue_from")
    audio = melody if continue_from is None else continue_from
    if audio is not None:
        uses = generator_pb2.PromptAudioUse
        request.prompt_audio = read_file(audio)
        # Any encoding with a header: the server looks at the file itself.
        request.config.prompt_audio.format.encoding = audio_pb2.AUDIO_ENCODING_WAV
        request.config.prompt_audio.use = (
            uses.PROMPT_AUDIO_USE_MELODY if continue_from is None else uses.PROMPT_AUDIO_USE_CONTINUATION
        )
    return request


def read_file(audio: AudioFile) -> bytes:
    """Returns the bytes of an audio file."""
    return audio if isinstance(audio, bytes) else Path(audio).read_bytes()


def generation_update(
    prompt: Prompt | None, *, blend_steps: int = 0, **sampling: float | bool | None
) -> generator_pb2.GenerationUpdate:
    """Builds a GenerationUpdate.

    Raises:
        InvalidArgumentError: A value that the wire can't carry.
    """
    update = generator_pb2.GenerationUpdate()
    if prompt is not None:
        _put_prompts(update, prompt)
    put(update, "blend_steps", blend_steps)
    _put_sampling(update, sampling)
    return update


def _put_prompts(message: generator_pb2.GenerationConfig | generator_pb2.GenerationUpdate, prompt: Prompt) -> None:
    weighted = [(prompt, None)] if isinstance(prompt, str) else [_weighted(entry) for entry in prompt]
    for index, (text, weight) in enumerate(weighted):
        entry = message.prompts.add()
        put(entry, "text", text, f"prompts[{index}].text")
        put(entry, "weight", weight, f"prompts[{index}].weight")


def _put_sampling(
    message: generator_pb2.GenerationConfig | generator_pb2.GenerationUpdate, sampling: dict[str, float | bool | None]
) -> None:
    for name, value in sampling.items():
        put(message.sampling, name, value, f"sampling.{name}")


def put_duration(message: duration_pb2.Duration, length: float, path: str) -> None:
    """Sets a length of time, in seconds."""
    try:
        message.FromNanoseconds(round(length * 1e9))
    except (ValueError, TypeError, OverflowError):
        raise refused(path, f"{length!r} is not a length of time in seconds") from None


def _weighted(entry: str | tuple[str, float]) -> tuple[str, float | None]:
    return (entry, None) if isinstance(entry, str) else entry


def put(message: Message, name: str, value: object, path: str = "") -> None:
    """Sets a field where there is a value for it."""
    if value is None:
        return
    try:
        setattr(message, name, value)
    except (ValueError, TypeError) as error:
        raise refused(path or name, f"{value!r} can't be sent: {error}") from None


def refused(field: str, description: str) -> InvalidArgumentError:
    """Returns the error for a field that is wrong before it is sent."""
    return InvalidArgumentError(f"{field}: {description}", violations=[FieldViolation(field, description)])


_ENCODINGS: dict[OutputEncoding, audio_pb2.AudioEncoding] = {
    "pcm_f32le": audio_pb2.AUDIO_ENCODING_PCM_F32LE,
    "pcm_s16le": audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    "wav": audio_pb2.AUDIO_ENCODING_WAV,
    "flac": audio_pb2.AUDIO_ENCODING_FLAC,
    "ogg_opus": audio_pb2.AUDIO_ENCODING_OGG_OPUS,
    "mp3": audio_pb2.AUDIO_ENCODING_MP3,
}


def output_format(encoding: OutputEncoding, sample_rate_hz: int = 0, channel_count: int = 0) -> audio_pb2.AudioFormat:
    """Returns the form to ask for; 0 stands for the model's own.

    Raises:
        InvalidArgumentError: The encoding is none of ours, or a number can't be sent.
    """
    if encoding not in _ENCODINGS:
        raise refused("output_format.encoding", f"{encoding!r} is not one of {', '.join(_ENCODINGS)}")
    form = audio_pb2.AudioFormat(encoding=_ENCODINGS[encoding])
    put(form, "sample_rate_hz", sample_rate_hz, "output_format.sample_rate_hz")
    put(form, "channel_count", channel_count, "output_format.channel_count")
    return form


def read_encoding(form: audio_pb2.AudioFormat) -> OutputEncoding:
    """Returns the encoding that a response names.

    Raises:
        ProtocolError: It is none that was asked for, or the rate or the channels are missing.
    """
    for name, value in _ENCODINGS.items():
        if form.encoding == value and form.sample_rate_hz > 0 and form.channel_count > 0:
            return name
    raise ProtocolError(f"format: {str(form).replace(chr(10), ' ').strip()} was not asked for")


def seconds(duration: duration_pb2.Duration) -> float:
    """Returns a length of time in seconds."""
    return duration.seconds + duration.nanos / 1e9


def read_samples(data: bytes, form: audio_pb2.AudioFormat) -> NDArray[np.float32]:
    """Returns the samples of a response, [samples, channels].

    Raises:
        ProtocolError: They are not laid out as `form` says.
    """
    encoding = read_encoding(form)
    if encoding not in ("pcm_f32le", "pcm_s16le"):
        raise ProtocolError(f"format: {encoding} was not asked for")
    try:
        return from_pcm(data, encoding, form.channel_count)
    except ValueError as error:
        raise ProtocolError(str(error)) from None


def read_codes(frames: audio_pb2.CodeFrames) -> NDArray[np.int32]:
    """Returns the codes of a response, [K, T].

    Raises:
        ProtocolError: They are not packed as their counts say.
    """
    try:
        return unpack_codes(frames)
    except ValueError as error:
        raise ProtocolError(str(error)) from None


def read_started(started: generator_pb2.GenerationStarted) -> Started:
    """Reads the first response of a generation."""
    config, sampling = started.config, started.config.sampling
    return Started(
        model=config.model,
        prompts=tuple((p.text, p.weight if p.HasField("weight") else 1.0) for p in config.prompts),
        duration_seconds=seconds(config.duration),
        seed=config.seed,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        cfg_coef=sampling.cfg_coef,
        use_sampling=sampling.use_sampling,
        encoding=read_encoding(started.format),
        sample_rate_hz=started.format.sample_rate_hz,
        channel_count=started.format.channel_count,
        frame_rate_hz=started.frame_rate_hz,
        total_samples=started.total_samples,
        total_steps=started.total_steps,
    )


_REASONS = {
    generator_pb2.GenerationFinished.REASON_COMPLETE: FinishReason.COMPLETE,
    generator_pb2.GenerationFinished.REASON_STOPPED: FinishReason.STOPPED,
}


def read_finished(finished: generator_pb2.GenerationFinished) -> Finished:
    """Reads the last response of a generation."""
    return Finished(
        reason=_REASONS.get(finished.reason, FinishReason.UNSPECIFIED),
        audio_seconds=seconds(finished.audio_duration),
        steps=finished.steps,
        timings=Timings(
            queue_seconds=seconds(finished.queue_time),
            first_audio_seconds=seconds(finished.first_audio_time),
            total_seconds=seconds(finished.total_time),
        ),
    )
