"""The neural half of the generator: many sequences, one step at a time.

`begin` prepares a sequence, `step` advances any set of them by one step, and what became audible comes back.
A sequence is an object; the engine itself holds nothing of a request.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from services.generator.requests import GenerationRequest
from services.models.conditions import Conditioner, Prompt
from services.models.loader import LoadedGenerator
from services.models.patterns import Schedule
from services.models.sampling import Sampling, sample
from services.models.streaming import DecoderState, StreamingDecoder
from services.models.transformer import TransformerExecutor, TransformerState

CHUNK_FRAMES = (5, 5, 10, 15, 25)
"""Frames of the first chunks; the last size stays. Small at first for a quick start, then larger: fewer calls."""


@dataclass
class Sequence:
    """One request's place in the model.

    Attributes:
        codes: int64 ``[K, T]``; filled along the delay pattern.
        tokens: int64 ``[K]``, what the last step predicted.
    """

    request: GenerationRequest
    schedule: Schedule
    state: TransformerState
    codes: torch.Tensor
    tokens: torch.Tensor
    decoder: DecoderState = field(default_factory=DecoderState)
    steps: int = 0
    decoded_frames: int = 0
    chunks: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Output:
    """What a step made audible.

    Attributes:
        steps: steps done.
        audio: float32 ``[C, n]`` on the CPU, from sample ``first_sample`` on; empty when nothing is due.
        codes: int32 ``[K, m]``, from frame ``first_frame`` on: all that were decoded with this step.
        final: the piece is whole.
    """

    steps: int
    audio: torch.Tensor
    first_sample: int
    codes: NDArray[np.int32]
    first_frame: int
    final: bool


class GeneratorEngine:
    """Steps one model.

    Raises:
        UnsupportedModel, UnsupportedCodec: the checkpoint has a part that can't be run in steps.
    """

    def __init__(self, loaded: LoadedGenerator) -> None:
        self.info = loaded.info
        self._executor = TransformerExecutor(loaded.lm)
        self._conditioner = Conditioner(loaded.lm)
        self._decoder = StreamingDecoder(loaded.codec)
        self._patterns = loaded.lm.pattern_provider

    @property
    def samples_per_frame(self) -> int:
        return int(self._decoder.hop)

    @property
    def lookahead_seconds(self) -> float:
        """How far the audio lags behind the codes."""
        return self._decoder.lookahead_frames / self.info.frame_rate_hz

    def step_count(self, frame_count: int) -> int:
        """Return the steps that a piece of so many frames takes."""
        return Schedule(self._patterns, frame_count).step_count

    def begin(self, request: GenerationRequest) -> Sequence:
        """Prepare a request: project its text, make room for its cache."""
        schedule = Schedule(self._patterns, request.frame_count)
        guided = bool(request.prompt) and request.sampling.cfg_coef != 1.0
        books = schedule.frames.shape[1]
        return Sequence(
            request=request,
            schedule=schedule,
            state=self._executor.begin(
                self._conditioner.prepare([Prompt(request.prompt)], guided), schedule.step_count
            ),
            codes=torch.zeros(books, request.frame_count, dtype=torch.long),
            tokens=torch.full((books,), self._executor.start_token),
        )

    @torch.inference_mode()
    def step(self, sequences: Many[Sequence]) -> list[Output]:
        """Advance every sequence by one step; one output each, in order."""
        tokens = [sequence.tokens[None] for sequence in sequences]
        guidance = [sequence.request.sampling.cfg_coef for sequence in sequences]
        logits = self._executor.step([sequence.state for sequence in sequences], tokens, guidance)
        frames = np.stack([sequence.schedule.frames[sequence.steps] for sequence in sequences])
        drawn = sample(logits, [sequence.request.sampling for sequence in sequences], frames).cpu()
        for sequence, row, due in zip(sequences, drawn, frames, strict=True):
            valid = torch.from_numpy(due >= 0)
            sequence.tokens = torch.where(valid, row, self._executor.start_token)
            sequence.codes[valid, torch.from_numpy(due)[valid]] = row[valid]
            sequence.steps += 1
        return [self._audible(sequence) for sequence in sequences]

    @torch.inference_mode()
    def finish(self, sequence: Sequence) -> Output:
        """End a sequence early: decode the frames that are whole."""
        return self._decode(sequence, sequence.schedule.whole_frames(sequence.steps), final=True)

    def warm(self) -> None:
        """Run a short piece, so that the first request finds everything allocated and compiled."""
        request = GenerationRequest("", "warm-up", 60, Sampling(seed=1))
        sequence = self.begin(request)
        while not self.step([sequence])[0].final:
            pass

    def _audible(self, sequence: Sequence) -> Output:
        whole = sequence.schedule.whole_frames(sequence.steps)
        final = sequence.steps == sequence.schedule.step_count
        due = CHUNK_FRAMES[min(sequence.chunks, len(CHUNK_FRAMES) - 1)]
        if not sequence.decoded_frames:
            due += self._decoder.lookahead_frames
        if not final and whole - sequence.decoded_frames < due:
            return _nothing(sequence)
        return self._decode(sequence, whole, final)

    def _decode(self, sequence: Sequence, whole: int, final: bool) -> Output:
        first = sequence.decoded_frames
        codes = sequence.codes[:, first:whole]
        audio = self._decoder.decode(sequence.decoder, codes.to(self._executor.device), final)
        samples = audio.float().cpu() if audio.numel() else torch.zeros(self.info.channel_count, 0)
        output = Output(sequence.steps, samples, sequence.samples, codes.numpy().astype(np.int32), first, final)
        sequence.decoded_frames = whole
        sequence.samples += samples.shape[1]
        sequence.chunks += 1
        return output


def _nothing(sequence: Sequence) -> Output:
    codes = np.zeros((0, 0), np.int32)
    return Output(sequence.steps, torch.zeros(0, 0), sequence.samples, codes, sequence.decoded_frames, final=False)
