"""The neural half of the generator: many sequences, one step at a time.

`prepare` works out what a request needs before its first step, `begin` makes a sequence of it, `step` advances any
set of sequences by one step, and what became audible comes back. The engine itself holds nothing of a request.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from services.generator.output import Output, unheard
from services.generator.requests import Change, GenerationRequest
from services.generator.sequence import (
    MOST_CHUNK_FRAMES,
    Prepared,
    PreparedChange,
    Sequence,
    window_codes,
)
from services.generator.windows import Schedules, Windows
from services.models.codecs import Frames, codec_of
from services.models.conditions import Conditioner, Prompt, RowConditions, UnsupportedConditions
from services.models.execution import Precision, make_executor, weight_bytes
from services.models.loader import LoadedGenerator
from services.models.prompting import encode_prompt, window_melody
from services.models.sampling import Sampling, sample

CHUNK_FRAMES = (5, 5, 10, 15, 25)
"""Frames of the first chunks; the last size stays. Small at first for a quick start, then larger: fewer calls."""
PREFILL_STEPS = 32
"""Known tokens that a sequence takes in at once: others wait for it."""


class GeneratorEngine:
    """Steps one model.

    Raises:
        UnsupportedModel, UnsupportedCodec: the checkpoint has a part that can't be run in steps.
        ValueError: the device does not run the precision.
    """

    def __init__(self, loaded: LoadedGenerator, precision: Precision = "fp32") -> None:
        self._executor = make_executor(loaded.lm, precision)
        self.info = replace(loaded.info, precision=self._executor.precision)
        self._conditioner = Conditioner(loaded.lm)
        self._model = loaded.codec
        self._codec = codec_of(loaded.codec)
        self._ahead = ThreadPoolExecutor(1, "conditions")
        other = [*loaded.lm.condition_provider.parameters(), *loaded.lm.emb.parameters(), *loaded.codec.parameters()]
        self.weight_bytes = weight_bytes(loaded.lm, self._executor.precision) + sum(
            parameter.numel() * parameter.element_size() for parameter in other
        )
        self._schedules = Schedules(loaded.lm.pattern_provider)

    @property
    def samples_per_frame(self) -> int:
        return self._codec.hop

    @property
    def lookahead_seconds(self) -> float:
        """How far the audio lags behind the codes."""
        return self._codec.decode_lookahead / self.info.frame_rate_hz

    def windows(self, frame_count: int | None, stride: int = 0) -> Windows:
        """Return the windows of a piece of so many frames; a stride of 0 is the model's default."""
        return Windows(self.info.window_frames, stride or self.info.stride_frames, frame_count)

    def step_count(self, frame_count: int | None, known: int = 0, stride: int = 0) -> int:
        """Return the steps that draw codes of a piece of so many frames, ``known`` of them given; 0 without an end."""
        return self._schedules.step_count(self.windows(frame_count, stride), known)

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Work out a request's conditions and the codes that it begins with. From any thread."""
        codes = np.zeros((self.info.codebook_count, 0), dtype=np.int64)
        if request.continuation is not None:
            codes = encode_prompt(self._model, request.continuation, self._executor.device)
        windows, resume = self.windows(request.frame_count, request.stride_frames), request.resume
        first = self._schedules.place(windows, codes.shape[1], 0 if resume is None else resume.codes.shape[1]).first
        rows = self._rows(request, windows, first)
        changes = () if request.resume is None else request.resume.updates
        prepared = tuple((step, self.prepare_change(change)) for step, change in changes)
        return Prepared(rows, codes, prepared)

    def prepare_change(self, change: Change) -> PreparedChange:
        """Work out what a change in mid-stream takes. From any thread."""
        sources = {}
        for prompt in change.prompts:
            sources[prompt.text] = self._conditioner.prepare([Prompt(prompt.text)], True)[0].cross[0][0]
        nothing = self._conditioner.prepare([Prompt("")], True)[1].cross
        return PreparedChange(change, sources, nothing[0][0] if nothing else None)

    def begin(self, request: GenerationRequest, prepared: Prepared | None = None) -> Sequence:
        """Make room for a request; prepare it where that is not done."""
        prepared = prepared or self.prepare(request)
        windows = self.windows(request.frame_count, request.stride_frames)
        codes, resume = prepared.codes, request.resume
        place = self._schedules.place(windows, codes.shape[1], 0 if resume is None else resume.codes.shape[1])
        if resume is not None and resume.codes.shape[1] > codes.shape[1]:
            codes = resume.codes
        schedule, known = place.schedule, min(codes.shape[1] - place.first, place.schedule.frame_count - 1)
        sequence = Sequence(
            request=request,
            windows=windows,
            rows=prepared.rows,
            schedule=schedule,
            codes=window_codes(codes[:, place.first :], schedule.frame_count),
            first_frame=place.first,
            known=known,
            first_draw=schedule.first_step(known),
            state=None,
            decoder=self._codec.decoding(),
            total_steps=self.step_count(request.frame_count, prepared.codes.shape[1], request.stride_frames),
            start_token=self._executor.start_token,
            window_start=place.steps,
            origin=place.steps - schedule.first_step(place.prompt),
            past=None if resume is None else codes,
        )
        sequence.steps = sequence.origin + sequence.first_draw
        for prompt, (source, _) in zip(request.prompts, prepared.rows[0].cross, strict=False):
            sequence.sources.setdefault(prompt.text, source)
        for step, change in prepared.changes:
            sequence.change(step, change)
        self._look_ahead(sequence)
        self._enter(sequence)
        return sequence

    @torch.inference_mode()
    def step(self, sequences: Many[Sequence]) -> list[Output]:
        """Advance every sequence by one step; one output each, in order."""
        self._draw([sequence for sequence in sequences if not sequence.behind])
        outputs = self._decode(sequences, [self._due(sequence) for sequence in sequences])
        for sequence in sequences:
            if sequence.window_done and not sequence.done:
                self._slide(sequence)
        return outputs

    def update(self, sequence: Sequence, prepared: PreparedChange) -> int:
        """Take a change; return how many steps are done before it takes effect.

        Raises:
            UnsupportedConditions: the model hears its prompts before the first token only.
        """
        change, rows = prepared.change, len(sequence.conditions(sequence.timeline.start))
        if change.prompts and not self._conditioner.mixes_prompts:
            raise UnsupportedConditions("prompts: this model hears its prompt before the first token only")
        # What a window's prompt heard must stay the same for all of it.
        step = sequence.steps + (0 < sequence.position <= sequence.first_draw)
        sequence.change(step, prepared)
        if sequence.timeline.guided and rows == 1 and sequence.nothing is None:
            raise UnsupportedConditions("cfg_coef: this model can't be guided from mid-stream on")
        if len(sequence.conditions(sequence.timeline.start)) > rows:
            self.release(sequence)
        return step

    def release(self, sequence: Sequence) -> None:
        """Give back the caches of a sequence; they are made again when it is stepped again."""
        if sequence.state is not None:
            self._executor.end(sequence.state)
            sequence.forget()

    @torch.inference_mode()
    def finish(self, sequence: Sequence) -> Output:
        """End a sequence early: decode the frames that are whole."""
        return self._decode([sequence], [sequence.whole_frames], final=True)[0]

    def warm(self) -> None:
        """Run a short piece, so that the first request finds everything allocated and compiled."""
        request = GenerationRequest("", (Prompt("warm-up"),), 60, Sampling(seed=1))
        sequence = self.begin(request)
        while not self.step([sequence])[0].final:
            pass
        self.release(sequence)

    def _draw(self, sequences: Many[Sequence]) -> None:
        """Take the next tokens of each into the model, and draw what follows them."""
        if not sequences:
            return
        tokens = [sequence.take(self._hear(sequence)) for sequence in sequences]
        sampling = [sequence.timeline.sampling(sequence.steps) for sequence in sequences]
        guidance = [one.cfg_coef for one in sampling]
        logits = self._executor.step([sequence.state for sequence in sequences], tokens, guidance)
        drawing = [index for index, sequence in enumerate(sequences) if sequence.draws]
        if drawing:
            frames = np.stack([sequences[index].due for index in drawing])
            drawn = sample(logits[drawing], [sampling[index] for index in drawing], frames)
            for index, row in zip(drawing, drawn.cpu().numpy(), strict=True):
                sequences[index].put(row)

    def _enter(self, sequence: Sequence) -> None:
        """Make room for a window, at its start."""
        sequence.mix = sequence.timeline.mix(sequence.moment)
        conditions = sequence.conditions(sequence.mix)
        sequence.state = self._executor.begin(conditions, sequence.schedule.step_count)

    def _hear(self, sequence: Sequence) -> int:
        """Let a sequence hear what is due; return how many tokens it may take before it must hear other things."""
        if sequence.state is None:
            self._enter(sequence)
        moment = sequence.moment
        mix = sequence.timeline.mix(moment)
        if mix != sequence.mix:
            sequence.mix = mix
            self._executor.recondition(sequence.state, sequence.conditions(mix))
        steady = sequence.timeline.steady(moment)
        if steady is None:
            return PREFILL_STEPS
        return min(PREFILL_STEPS, steady - sequence.origin - sequence.position)

    def _rows(self, request: GenerationRequest, windows: Windows, first: int) -> tuple[RowConditions, ...]:
        """Return what the rows of the window from frame ``first`` on are conditioned on."""
        heard = request.melody is not None or any(prompt.text for prompt in request.prompts)
        rate = self._conditioner.melody_rate_hz
        return self._conditioner.prepare(
            request.prompts,
            heard and request.sampling.cfg_coef != 1.0,
            apart=request.two_step,
            melody=window_melody(request.melody, rate, self.info, first, windows.extended),
        )

    def _look_ahead(self, sequence: Sequence) -> None:
        """Begin to work out what the next window is conditioned on, where each hears its own part of a melody."""
        end = sequence.first_frame + sequence.schedule.frame_count
        if sequence.request.melody is None or end == sequence.windows.frame_count:
            sequence.upcoming = None
            return
        first, _ = sequence.windows.at(end)
        sequence.upcoming = self._ahead.submit(self._rows, sequence.request, sequence.windows, first)

    def _slide(self, sequence: Sequence) -> None:
        """Go on in the next window, with the end of this one as its prompt."""
        self._executor.end(sequence.state)
        if sequence.upcoming is not None:
            sequence.rows = sequence.upcoming.result()
        known = sequence.first_frame + sequence.schedule.frame_count
        first, length = sequence.windows.at(known)
        sequence.codes = window_codes(sequence.piece(first, known), length)
        sequence.first_frame, sequence.known = first, known - first
        sequence.schedule = self._schedules.of(length)
        sequence.first_draw = sequence.schedule.first_step(sequence.known)
        sequence.position, sequence.window_start = 0, sequence.steps
        sequence.origin = sequence.steps - sequence.first_draw
        self._look_ahead(sequence)
        self._enter(sequence)

    def _due(self, sequence: Sequence) -> int:
        """Return the frame up to which to decode now."""
        whole = sequence.whole_frames
        if sequence.window_done:
            return whole
        due = CHUNK_FRAMES[min(sequence.chunks, len(CHUNK_FRAMES) - 1)]
        if not sequence.decoded_frames:
            due = max(due + self._codec.decode_lookahead, self._codec.decode_start)
        if whole - sequence.decoded_frames < due and sequence.past is None:
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
            output = Output(sequence.steps, made, sequence.samples, part, first, last)
            resume = sequence.request.resume
            outputs.append(output if resume is None else unheard(output, resume))
            sequence.decoded_frames += part.shape[1]
            sequence.samples += made.shape[1]
            sequence.chunks += index in samples
            if sequence.past is not None and sequence.decoded_frames >= sequence.past.shape[1]:
                sequence.past = None
        return outputs
