"""Checks of single fields against a model. Violations are gathered, so that all are told at once."""

from __future__ import annotations

import math
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from google.protobuf import duration_pb2
from numpy.typing import NDArray

from antiphon.codes import bits_per_code, unpack_codes
from antiphon.v1 import audio_pb2, generator_pb2
from services.models.conditions import Prompt
from services.models.loader import ModelInfo
from services.models.sampling import Sampling
from services.runtime.errors import InvalidArgument

DEFAULT_DURATION_SECONDS = 10.0
MAX_PROMPTS = 8
MAX_PROMPT_CHARACTERS = 1000
MAX_BLEND_STEPS = 3000
MIN_RATE_HZ, MAX_RATE_HZ, MAX_CHANNELS = 4_000, 384_000, 8
"""Of an audio prompt."""
ENCODINGS = (
    audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    audio_pb2.AUDIO_ENCODING_PCM_F32LE,
    audio_pb2.AUDIO_ENCODING_WAV,
)
_SMALL = 1e-6  # a duration of 0.58 s at 50 frames a second is 29 frames, whatever the floats say
_LONG_SECONDS = 1e9


class Checks:
    """Reads fields and gathers what is wrong with them.

    Args:
        path: of the message that holds the fields.
    """

    MAX_UPDATES: ClassVar[int] = 1000

    def __init__(self, path: str, info: ModelInfo, problems: list[tuple[str, str]] | None = None) -> None:
        self._path = path
        self._info = info
        self._problems: list[tuple[str, str]] = [] if problems is None else problems

    def inside(self, path: str) -> Checks:
        """Return the checks of a message inside this one; the violations are gathered together."""
        return Checks(f"{self._path}.{path}", self._info, self._problems)

    def refuse(self, field: str, description: str) -> None:
        """Add a violation."""
        self._problems.append((f"{self._path}.{field}", description))

    def settle(self) -> None:
        """Raise InvalidArgument if anything was wrong."""
        if self._problems:
            raise InvalidArgument.several(self._problems)

    def prompts(self, prompts: Sequence[generator_pb2.WeightedPrompt]) -> tuple[Prompt, ...]:
        """Return the prompts."""
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            self.refuse("prompts", f"must be 1 to {MAX_PROMPTS} prompts, are {len(prompts)}")
        found = []
        for index, prompt in enumerate(prompts[:MAX_PROMPTS]):
            weight = prompt.weight if prompt.HasField("weight") else 1.0
            if len(prompt.text) > MAX_PROMPT_CHARACTERS:
                count = len(prompt.text)
                description = f"must have at most {MAX_PROMPT_CHARACTERS} characters, has {count}"
                self.refuse(f"prompts[{index}].text", description)
            elif any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in prompt.text):
                self.refuse(f"prompts[{index}].text", "must not hold control characters")
            if not (math.isfinite(weight) and weight > 0):
                self.refuse(f"prompts[{index}].weight", "must be finite and above 0")
            found.append(Prompt(prompt.text.strip(), weight))
        return tuple(found)

    def frame_count(self, config: generator_pb2.GenerationConfig) -> int | None:
        """Return the length of the piece in frames; None where it has no end."""
        if config.endless:
            if config.HasField("duration"):
                self.refuse("duration", "must be unset in an endless piece")
            return None
        info = self._info
        seconds = min(DEFAULT_DURATION_SECONDS, info.max_duration_seconds)
        if config.HasField("duration"):
            seconds = config.duration.seconds + config.duration.nanos * 1e-9
            low, high = 1.0 / info.frame_rate_hz, info.longest_seconds
            if not low - _SMALL <= seconds <= high + _SMALL:
                self.refuse("duration", f"must be {low:g} to {high:g} seconds, is {seconds:g}")
        return int(seconds * info.frame_rate_hz + _SMALL)

    def stride_frames(self, config: generator_pb2.GenerationConfig) -> int:
        """Return how many frames one window of a long piece is from the next."""
        info = self._info
        if not config.HasField("extend_stride"):
            return info.stride_frames
        seconds = config.extend_stride.seconds + config.extend_stride.nanos * 1e-9
        if not 1.0 / info.frame_rate_hz - _SMALL <= seconds < info.max_duration_seconds:
            description = f"must be {1.0 / info.frame_rate_hz:g} to below {info.max_duration_seconds:g} seconds"
            self.refuse("extend_stride", f"{description}, is {seconds:g}")
            return info.stride_frames
        return int(seconds * info.frame_rate_hz + _SMALL)

    def prompt_audio(self, prompt: generator_pb2.PromptAudioConfig) -> None:
        """Check the form of an audio prompt."""
        form = prompt.format
        if form.encoding not in audio_pb2.AudioEncoding.values():
            self.refuse("prompt_audio.format.encoding", "is not known")
        if form.sample_rate_hz and not MIN_RATE_HZ <= form.sample_rate_hz <= MAX_RATE_HZ:
            self.refuse("prompt_audio.format.sample_rate_hz", f"must be {MIN_RATE_HZ} to {MAX_RATE_HZ}, or 0")
        if not 0 <= form.channel_count <= MAX_CHANNELS:
            self.refuse("prompt_audio.format.channel_count", f"must be 1 to {MAX_CHANNELS}, or 0")
        if prompt.use not in generator_pb2.PromptAudioUse.values():
            self.refuse("prompt_audio.use", "must be CONTINUATION or MELODY")

    def sampling(self, config: generator_pb2.GenerationConfig) -> Sampling:
        """Return how tokens are drawn, defaults filled in."""
        seed = config.seed if config.HasField("seed") else secrets.randbits(63)
        default = replace(self._info.sampling, seed=seed)
        fields = {"top_k": min(default.top_k, self._info.codebook_size), **self.changes(config.sampling)}
        return Sampling(**{**vars(default), **fields})

    def changes(self, given: generator_pb2.SamplingParameters) -> dict[str, Any]:
        """Return the sampling parameters that are set."""
        found: dict[str, Any] = {}
        if given.HasField("temperature"):
            found["temperature"] = self._number(given.temperature, "temperature", 0.0, 10.0, open_low=True)
        if given.HasField("top_k"):
            found["top_k"] = int(self._number(given.top_k, "top_k", 0, self._info.codebook_size))
        if given.HasField("top_p"):
            found["top_p"] = self._number(given.top_p, "top_p", 0.0, 1.0)
        if given.HasField("cfg_coef"):
            found["cfg_coef"] = self._number(given.cfg_coef, "cfg_coef", 0.0, 20.0)
        if given.HasField("use_sampling"):
            found["use_sampling"] = given.use_sampling
        return found

    def encoding(self, form: audio_pb2.AudioFormat) -> audio_pb2.AudioEncoding:
        """Return the encoding."""
        info, encoding = self._info, form.encoding or audio_pb2.AUDIO_ENCODING_PCM_S16LE
        if encoding not in ENCODINGS:
            self.refuse("output_format.encoding", "must be PCM_S16LE, PCM_F32LE or WAV")
        if form.sample_rate_hz not in (0, info.sample_rate_hz):
            self.refuse("output_format.sample_rate_hz", f"must be the model's {info.sample_rate_hz}, or 0")
        if form.channel_count not in (0, info.channel_count):
            self.refuse("output_format.channel_count", f"must be the model's {info.channel_count}, or 0")
        return encoding

    def credit(self, pacing: generator_pb2.Pacing) -> int | None:
        """Return the samples that may be sent at first; None for no limit."""
        if not pacing.HasField("initial_credit"):
            return None
        samples = self.samples("pacing.initial_credit", pacing.initial_credit)
        if samples is not None and samples < 0:
            self.refuse("pacing.initial_credit", "must not be below 0")
        return samples

    def samples(self, field: str, length: duration_pb2.Duration) -> int | None:
        """Return the whole samples in a length of time; None where it is no length of time."""
        seconds = length.seconds + length.nanos * 1e-9
        if not -_LONG_SECONDS < seconds < _LONG_SECONDS:
            self.refuse(field, "must be a number of seconds")
            return None
        return math.floor(seconds * self._info.sample_rate_hz + _SMALL)

    def blend_steps(self, update: generator_pb2.GenerationUpdate) -> int:
        """Return over how many steps an update fades in."""
        if update.blend_steps > MAX_BLEND_STEPS:
            self.refuse("blend_steps", f"must be at most {MAX_BLEND_STEPS}, is {update.blend_steps}")
        elif update.blend_steps and not update.prompts:
            self.refuse("blend_steps", "must be 0 where there are no new prompts to fade to")
        return update.blend_steps

    def update_count(self, resume: generator_pb2.ResumePoint) -> None:
        """Check how many changes a piece had."""
        if len(resume.updates) > self.MAX_UPDATES:
            self.refuse("resume.updates", f"must be at most {self.MAX_UPDATES}, are {len(resume.updates)}")

    def known_codes(self, resume: generator_pb2.ResumePoint, frame_count: int | None) -> NDArray[np.int64]:
        """Return the codes ``[K, F]`` that a piece goes on from."""
        info, frames = self._info, resume.codes
        known = np.zeros((info.codebook_count, 0), np.int64)
        if frames.frame_count:
            known = self._codes(frames, known)
        if frames.first_frame:
            self.refuse("resume.codes.first_frame", "must be 0: the codes are all of the piece so far")
        if frame_count is not None and frames.frame_count > frame_count:
            description = f"must be at most the {frame_count} of the piece, is {frames.frame_count}"
            self.refuse("resume.codes.frame_count", description)
        held = frames.frame_count * round(info.sample_rate_hz / info.frame_rate_hz)
        if resume.received_samples > held:
            description = f"must be at most the {held} that the codes stand for, is {resume.received_samples}"
            self.refuse("resume.received_samples", description)
        return known

    def _codes(self, frames: audio_pb2.CodeFrames, default: NDArray[np.int64]) -> NDArray[np.int64]:
        info = self._info
        if frames.codebook_count != info.codebook_count:
            self.refuse("resume.codes.codebook_count", f"must be the model's {info.codebook_count}")
        elif frames.bits_per_code != bits_per_code(info.codebook_size):
            self.refuse("resume.codes.bits_per_code", f"must be {bits_per_code(info.codebook_size)}")
        else:
            try:
                codes = unpack_codes(frames)
            except ValueError as error:
                self.refuse("resume.codes.data", str(error))
            else:
                if codes.max() < info.codebook_size:
                    return codes.astype(np.int64)
                self.refuse("resume.codes.data", f"holds {codes.max()}; codes are below {info.codebook_size}")
        return default

    def _number(self, value: float, field: str, low: float, high: float, *, open_low: bool = False) -> float:
        # Written so that NaN fails.
        if not ((low < value if open_low else low <= value) and value <= high):
            words = f"above {low:g} and at most {high:g}" if open_low else f"{low:g} to {high:g}"
            self.refuse(f"sampling.{field}", f"must be {words}, is {value:g}")
        return value
