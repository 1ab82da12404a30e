"""The neural half of the generator: many sequences, one step at a time.

`prepare` works out what a request needs before its first step, `begin` makes a sequence of it, `step` advances any
set of sequences by one step, and what became audible comes back. The engine itself holds nothing of a request.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from services.generator.requests import GenerationRequest
from services.generator.sequence import Prepared, Sequence, Windows, window_codes
from services.models.codecs import Frames, codec_of
from services.models.conditions import Conditioner, Prompt
from services.models.loader import LoadedGenerator
from services.models.patterns import Schedule
from services.models.sampling import Sampling, sample
from services.models.transformer import TransformerExecutor

CHUNK_FRAMES = (5, 5, 10, 15, 25)
"""Frames of the first chunks; the last size stays. Small at first for a quick start, then larger: fewer calls."""
MOST_CHUNK_FRAMES = 50
"""Frames that are decoded in one step, however many of a prompt are there: others wait for it."""
PREFILL_STEPS = 32
"""Known tokens that a sequence takes in at once: others wait for it."""


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
        self._codec = codec_of(loaded.codec)
        self._schedule = cache(lambda frame_count: Schedule(loaded.lm.pattern_provider, frame_count))

    @property
    def samples_per_frame(self) -> int:
        return self._codec.hop

    @property
    def lookahead_seconds(self) -> float:
        """How far the audio lags behind the codes."""
        return self._codec.decode_lookahead / self.info.frame_rate_hz

    def windows(self, frame_count: int | None, stride: int = 0) -> Windows:
        """Return the windows of a piece of so many frames; a stride of 0 is the model's default."""
        size = int(self.info.max_duration_seconds * self.info.frame_rate_hz)
        return Windows(size, stride or max(1, size * 3 // 5), frame_count)

    def step_count(self, frame_count: int | None, known: int = 0, stride: int = 0) -> int:
        """Return the steps that draw codes of a piece of so many frames, ``known`` of them given; 0 without an end."""
        steps, windows = 0, self.windows(frame_count, stride)
        while frame_count is not None and known < frame_count:
            first, length = windows.at(known)
            schedule = self._schedule(length)
            steps += schedule.step_count - schedule.first_step(known - first)
            known = first + length
        return steps

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Work out a request's conditions and the codes that it begins with. From any thread."""
        guided = bool(request.prompt) and request.sampling.cfg_coef != 1.0
        rows = self._conditioner.prepare([Prompt(request.prompt)], guided)
        return Prepared(rows, np.zeros((self.info.codebook_count, 0), dtype=np.int64))

    def begin(self, request: GenerationRequest, prepared: Prepared | None = None) -> Sequence:
        """Make room for a request; prepare it where that is not done."""
        prepared = prepared or self.prepare(request)
        windows, codes = self.windows(request.frame_count), prepared.codes
        known = codes.shape[1]
        first, length = windows.at(known)
        schedule = self._schedule(length)
        return Sequence(
            request=request,
            windows=windows,
            rows=prepared.rows,
            schedule=schedule,
            codes=window_codes(codes[:, first:], length),
            first_frame=first,
            known=known - first,
            first_draw=schedule.first_step(known - first),
            state=self._executor.begin(prepared.rows, schedule.step_count),
            decoder=self._codec.decoding(),
            total_steps=self.step_count(request.frame_count, known),
            start_token=self._executor.start_token,
        )

    @torch.inference_mode()
    def step(self, sequences: Many[Sequence]) -> list[Output]:
        """Advance every sequence by one step; one output each, in order."""
        tokens = [sequence.take(PREFILL_STEPS) for sequence in sequences]
        guidance = [sequence.request.sampling.cfg_coef for sequence in sequences]
        logits = self._executor.step([sequence.state for sequence in sequences], tokens, guidance)
        drawing = [index for index, sequence in enumerate(sequences) if sequence.draws]
        if drawing:
            frames = np.stack([sequences[index].due for index in drawing])
            drawn = sample(logits[drawing], [sequences[index].request.sampling for index in drawing], frames)
            for index, row in zip(drawing, drawn.cpu().numpy(), strict=True):
                sequences[index].put(row)
        outputs = self._decode(sequences, [self._due(sequence) for sequence in sequences])
        for sequence in sequences:
            if sequence.window_done and not sequence.done:
                self._slide(sequence)
        return outputs

    @torch.inference_mode()
    def finish(self, sequence: Sequence) -> Output:
        """End a sequence early: decode the frames that are whole."""
        return self._decode([sequence], [sequence.whole_frames], final=True)[0]

    def end(self, sequence: Sequence) -> None:
        """Give back what a sequence holds; no step may follow."""
        self._executor.end(sequence.state)

    def warm(self) -> None:
        """Run a short piece, so that the first request finds everything allocated and compiled."""
        request = GenerationRequest("", "warm-up", 60, Sampling(seed=1))
        sequence = self.begin(request)
        while not self.step([sequence])[0].final:
            pass
        self.end(sequence)

    def _slide(self, sequence: Sequence) -> None:
        """Go on in the next window, with the end of this one as its prompt."""
        self._executor.end(sequence.state)
        known = sequence.first_frame + sequence.schedule.frame_count
        first, length = sequence.windows.at(known)
        sequence.codes = window_codes(sequence.piece(first, known), length)
        sequence.first_frame, sequence.known = first, known - first
        sequence.schedule = self._schedule(length)
        sequence.first_draw = sequence.schedule.first_step(sequence.known)
        sequence.state = self._executor.begin(sequence.rows, sequence.schedule.step_count)
        sequence.position = 0

    def _due(self, sequence: Sequence) -> int:
        """Return the frame up to which to decode now."""
        whole = sequence.whole_frames
        if sequence.window_done:
            return whole
        due = CHUNK_FRAMES[min(sequence.chunks, len(CHUNK_FRAMES) - 1)]
        if not sequence.decoded_frames:
            due = max(due + self._codec.decode_lookahead, self._codec.decode_start)
        if whole - sequence.decoded_frames < due:
            return sequence.decoded_frames
        return min(whole, sequence.decoded_frames + max(due, MOST_CHUNK_FRAMES))

    def _decode(self, sequences: Many[Sequence], ends: Many[int], final: bool = False) -> list[Output]:
        """Decode each sequence up to a frame, those that have something to decode together."""
        going = [
            index
            for index, (sequence, end) in enumerate(zip(sequences, ends, strict=True))
            if end > sequence.decoded_frames or final or sequence.done
        ]
        codes = {index: sequences[index].piece(sequences[index].decoded_frames, ends[index]) for index in going}
        audio = self._codec.decode_many(
            [sequences[index].decoder for index in going],
            [Frames(torch.from_numpy(codes[index].copy()).to(self._executor.device)) for index in going],
            [final or sequences[index].done for index in going],
        )
        samples = dict(zip(going, audio, strict=True))
        outputs = []
        for index, sequence in enumerate(sequences):
            made = samples[index].float().cpu() if index in samples else torch.zeros(self.info.channel_count, 0)
            part = codes[index].astype(np.int32) if index in codes else np.zeros((0, 0), np.int32)
            first, last = sequence.decoded_frames, final or sequence.done
            outputs.append(Output(sequence.steps, made, sequence.samples, part, first, last))
            sequence.decoded_frames += part.shape[1]
            sequence.samples += made.shape[1]
            sequence.chunks += index in samples
        return outputs
