"""From messages to checked requests. Every violation names its field, and all of them are told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from antiphon.v1 import audio_pb2, generator_pb2
from services.generator.checks import Checks
from services.models.conditions import Prompt
from services.models.loader import ModelInfo
from services.models.sampling import Sampling
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from services.runtime.messages import duration

MAX_BATCH = 32
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "cfg_coef", "use_sampling")
STREAM_ONLY = ("pacing", "resume")
"""Fields of a config that only StreamGenerate serves; ``endless`` is another."""


@dataclass(frozen=True)
class Change:
    """A change in mid-stream.

    Attributes:
        prompts: the new ones; empty to keep those that there are.
        sampling: the fields of ``Sampling`` that change.
        blend_steps: over which the old prompts fade into the new ones.
    """

    prompts: tuple[Prompt, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    blend_steps: int = 0

    def sampled(self, sampling: Sampling) -> Sampling:
        """Return the sampling parameters after the change."""
        return replace(sampling, **self.sampling)


@dataclass(frozen=True, eq=False)
class Resume:
    """Where a piece that was cut off goes on.

    Attributes:
        codes: int64 ``[K, F]``, from frame 0; F may be 0.
        received_samples: of each channel, that the caller has.
        updates: the changes so far, each with the steps that had been done before it.
    """

    codes: NDArray[np.int64]
    received_samples: int
    updates: tuple[tuple[int, Change], ...]


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """A request whose every field is in range.

    Attributes:
        frame_count: length of the piece; None for one without an end.
        credit: samples that may be sent before more are granted; None for no limit.
        stride_frames: from one window of a long piece to the next; 0 for the model's default.
        two_step: the unconditional half of guidance is prepared by itself.
        continuation: ``[C, T]`` at the model's rate, that the piece begins with.
        melody: ``[C, T]`` at the model's rate, whose melody it keeps.
    """

    model: str
    prompts: tuple[Prompt, ...]
    frame_count: int | None
    sampling: Sampling
    encoding: audio_pb2.AudioEncoding = audio_pb2.AUDIO_ENCODING_PCM_F32LE
    include_codes: bool = False
    credit: int | None = None
    resume: Resume | None = None
    stride_frames: int = 0
    two_step: bool = False
    continuation: torch.Tensor | None = None
    melody: torch.Tensor | None = None


def generation(
    config: generator_pb2.GenerationConfig,
    models: Mapping[str, ModelInfo],
    *,
    streams: bool = False,
    audio: bool = False,
    path: str = "config",
) -> GenerationRequest:
    """Check a config against the models, the default first.

    Args:
        streams: the method is StreamGenerate.
        audio: the method takes an audio prompt, which `prompts.attach` adds.
        path: name of the config in the request, for the violations.

    Raises:
        NotFound: there is no such model.
        InvalidArgument: fields out of range, all of them named.
        Unimplemented: the model can't do it.
        FailedPrecondition: the piece was begun by another version of the model.
    """
    info = model_of(config.model, models, path)
    checks = Checks(path, info)
    frame_count = checks.frame_count(config)
    request = GenerationRequest(
        model=info.name,
        prompts=checks.prompts(config.prompts),
        frame_count=frame_count,
        sampling=checks.sampling(config),
        encoding=checks.encoding(config.output_format),
        include_codes=config.include_codes,
        credit=checks.credit(config.pacing),
        resume=_resume(config, frame_count, checks) if config.HasField("resume") else None,
        stride_frames=checks.stride_frames(config),
        two_step=config.two_step_cfg,
    )
    checks.prompt_audio(config.prompt_audio)
    for name in STREAM_ONLY:
        if config.HasField(name) and not streams:
            checks.refuse(name, "is served by StreamGenerate only")
    if config.endless and not streams:
        checks.refuse("endless", "is served by StreamGenerate only")
    if config.HasField("prompt_audio") and not (streams or audio):
        checks.refuse("prompt_audio", "is served by StreamGenerate and Generate only")
    checks.settle()
    _check_modes(config, info, path)
    if config.resume.model_version not in ("", info.version):
        begun = config.resume.model_version
        raise FailedPrecondition(f"{path}.resume.model_version", f"was begun by {begun}, this is {info.version}")
    return request


def _check_modes(config: generator_pb2.GenerationConfig, info: ModelInfo, path: str) -> None:
    melody = config.prompt_audio.use == generator_pb2.PROMPT_AUDIO_USE_MELODY
    asked = (
        ("prompts", "mixing", len(config.prompts) > 1, "takes one prompt"),
        ("prompt_audio.use", "melody", melody, "hears no melody"),
        ("prompt_audio.use", "continuation", config.HasField("prompt_audio") and not melody, "continues no audio"),
        ("endless", "stepwise", config.endless, "makes whole pieces"),
        ("resume", "stepwise", config.HasField("resume"), "makes whole pieces"),
    )
    for name, mode, is_asked, words in asked:
        if is_asked and mode not in info.modes:
            raise Unimplemented(f"{path}.{name}", f"{info.name} {words}")


def batch(request: generator_pb2.GenerateBatchRequest, models: Mapping[str, ModelInfo]) -> list[GenerationRequest]:
    """Check the configs of a batch.

    Raises:
        NotFound, InvalidArgument, Unimplemented: as `generation`, or not 1 to 32 of them, or of several models.
    """
    if not 1 <= len(request.configs) <= MAX_BATCH:
        raise InvalidArgument("configs", f"must be 1 to {MAX_BATCH} pieces, are {len(request.configs)}")
    problems: list[tuple[str, str]] = []
    found = []
    for index, config in enumerate(request.configs):
        try:
            found.append(generation(config, models, path=f"configs[{index}]"))
        except InvalidArgument as error:
            problems += error.violations
    problems += [
        (f"configs[{index}].model", "must be that of the first")
        for index, one in enumerate(found)
        if one.model != found[0].model
    ]
    if problems:
        raise InvalidArgument.several(problems)
    return found


def change(update: generator_pb2.GenerationUpdate, info: ModelInfo, path: str = "update") -> Change:
    """Check a change in mid-stream.

    Raises:
        InvalidArgument: fields out of range, all of them named.
    """
    checks = Checks(path, info)
    found = _change(update, checks)
    checks.settle()
    return found


def granted(credit: generator_pb2.Credit, info: ModelInfo) -> int:
    """Return the samples that a credit allows.

    Raises:
        InvalidArgument: it is not above 0.
    """
    checks = Checks("credit", info)
    samples = checks.samples("duration", credit.duration)
    if samples is not None and samples <= 0:
        checks.refuse("duration", "must be above 0, by a sample at least")
    checks.settle()
    return samples or 0


def effective(
    config: generator_pb2.GenerationConfig, request: GenerationRequest, info: ModelInfo
) -> generator_pb2.GenerationConfig:
    """Return the config with every default filled in. What it resumes from is left out: it is the caller's own."""
    full = generator_pb2.GenerationConfig()
    full.CopyFrom(config)
    full.ClearField("resume")
    full.model = request.model
    full.seed = request.sampling.seed
    for message, prompt in zip(full.prompts, request.prompts, strict=True):
        message.weight = prompt.weight
    if request.frame_count is not None:
        full.duration.CopyFrom(duration(request.frame_count / info.frame_rate_hz))
    if request.frame_count is None or request.frame_count > info.window_frames:
        full.extend_stride.CopyFrom(duration(request.stride_frames / info.frame_rate_hz))
    for name in SAMPLING_FIELDS:
        setattr(full.sampling, name, getattr(request.sampling, name))
    full.output_format.CopyFrom(audio_format(request, info))
    return full


def update_message(change: Change) -> generator_pb2.GenerationUpdate:
    """Return a change as the message that it came from."""
    message = generator_pb2.GenerationUpdate(blend_steps=change.blend_steps)
    for prompt in change.prompts:
        message.prompts.add(text=prompt.text, weight=prompt.weight)
    for name, value in change.sampling.items():
        setattr(message.sampling, name, value)
    return message


def audio_format(request: GenerationRequest, info: ModelInfo) -> audio_pb2.AudioFormat:
    """Return the form of the audio that the request gets."""
    return audio_pb2.AudioFormat(
        encoding=request.encoding,
        sample_rate_hz=info.sample_rate_hz,
        channel_count=info.channel_count,
    )


def model_of(name: str, models: Mapping[str, ModelInfo], path: str = "config") -> ModelInfo:
    """Return a model by its name, the default by none.

    Raises:
        NotFound: there is no such model.
    """
    if name and name not in models:
        raise NotFound(f"{path}.model", f"not loaded; loaded are: {', '.join(models)}")
    return models[name] if name else next(iter(models.values()))


def _change(update: generator_pb2.GenerationUpdate, checks: Checks) -> Change:
    prompts = checks.prompts(update.prompts) if update.prompts else ()
    sampling = checks.changes(update.sampling)
    return Change(prompts, sampling, checks.blend_steps(update))


def _resume(config: generator_pb2.GenerationConfig, frame_count: int | None, checks: Checks) -> Resume:
    if not config.HasField("seed"):
        checks.refuse("seed", "must be the one that started told, to resume")
    codes = checks.known_codes(config.resume, frame_count)
    updates, last = [], 0
    checks.update_count(config.resume)
    for index, applied in enumerate(config.resume.updates[: checks.MAX_UPDATES]):
        inner = checks.inside(f"resume.updates[{index}]")
        if applied.step < last:
            inner.refuse("step", f"must not be before the one above it, {last}")
        last = applied.step
        updates.append((applied.step, _change(applied.update, inner.inside("update"))))
    return Resume(codes, config.resume.received_samples, tuple(updates))
