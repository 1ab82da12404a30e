"""Models that no executor runs, in AudioCraft's own loop: the same interface as the engine, one piece at a time.

A step is a callback of the loop, so a piece can be paused, stopped and left between any two. Its audio is sent when
all its codes are there.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from services.generator.output import Output
from services.generator.requests import Change, GenerationRequest
from services.generator.sequence import MOST_CHUNK_FRAMES
from services.generator.windows import Windows
from services.models import magnet
from services.models.codecs import Codec, Frames, UnsupportedCodec, WholeCodec, codec_of
from services.models.conditions import Conditioner, UnsupportedConditions
from services.models.loader import LoadedGenerator
from services.models.plain import Callback, SteppedLoop, parameters
from services.models.prompting import encode_prompt, window_melody
from services.models.sessions import Session


@dataclass(eq=False)
class PlainSequence:
    """One request's place.

    Attributes:
        codes: int64 ``[K, T]``, once they are all there.
    """

    request: GenerationRequest
    loop: SteppedLoop
    decoder: Session
    total_steps: int
    steps: int = 0
    codes: torch.Tensor | None = None
    decoded_frames: int = 0
    samples: int = 0

    @property
    def steps_left(self) -> int:
        """Steps that it still takes."""
        return max(0, self.total_steps - self.steps)


class PlainEngine:
    """Runs a model in AudioCraft's loop. `release` must follow the last use of a sequence, before another begins."""

    def __init__(self, loaded: LoadedGenerator) -> None:
        self.info = replace(loaded.info, modes=loaded.info.modes - {"mixing", "stepwise"})
        self._lm, self._model = loaded.lm, loaded.codec
        self._conditioner = Conditioner(loaded.lm)
        self._device = next(loaded.lm.parameters()).device
        self._codec = _codec(loaded.codec)
        self.samples_per_frame = self._codec.hop
        self.lookahead_seconds = loaded.info.max_duration_seconds
        self.weight_bytes = sum(p.numel() * p.element_size() for p in loaded.lm.parameters())

    def windows(self, frame_count: int | None, stride: int = 0) -> Windows:
        """Return the windows of a piece of so many frames; a stride of 0 is the model's default."""
        return Windows(self.info.window_frames, stride or self.info.stride_frames, frame_count)

    def step_count(self, frame_count: int | None, known: int = 0, stride: int = 0) -> int:
        """Return the steps of a piece of so many frames, ``known`` of them given."""
        if frame_count is None or magnet.is_magnet(self._lm.cfg):
            return 0 if frame_count is None else sum(magnet.decoding_steps(self._lm))
        steps, windows = 0, self.windows(frame_count, stride)
        while known < frame_count:
            first, length = windows.at(known)
            pattern = self._lm.pattern_provider.get_pattern(length)
            steps += len(pattern.layout) - pattern.get_first_step_with_timesteps(known - first)
            known = first + length
        return steps

    def prepare(self, request: GenerationRequest) -> NDArray[np.int64]:
        """Return the codes ``[K, P]`` that a request begins with. From any thread.

        Raises:
            UnsupportedConditions: it asks for what this loop can't do.
        """
        if len(request.prompts) > 1:
            raise UnsupportedConditions("prompts: AudioCraft's own loop takes one")
        if request.frame_count is None or request.resume is not None:
            raise UnsupportedConditions("AudioCraft's own loop makes whole pieces, from their start to their end")
        if request.melody is not None and not self._conditioner.melody_rate_hz:
            raise UnsupportedConditions("melody: this model hears none")
        if request.continuation is None:
            return np.zeros((self.info.codebook_count, 0), dtype=np.int64)
        return encode_prompt(self._model, request.continuation, self._device)

    def prepare_change(self, change: Change) -> NoReturn:
        """Raise UnsupportedConditions: nothing changes in AudioCraft's own loop."""
        raise UnsupportedConditions("update: AudioCraft's own loop takes no change in mid-stream")

    def begin(self, request: GenerationRequest, prepared: NDArray[np.int64] | None = None) -> PlainSequence:
        """Begin a request; prepare it where that is not done."""
        codes = torch.from_numpy(self.prepare(request) if prepared is None else prepared)
        loop = SteppedLoop(lambda callback: self._generate(request, codes, callback), request.sampling.seed)
        steps = self.step_count(request.frame_count, codes.shape[1], request.stride_frames)
        return PlainSequence(request, loop, self._codec.decoding(), steps)

    def step(self, sequences: Many[PlainSequence]) -> list[Output]:
        """Advance every sequence by one step; one output each, in order."""
        return [self._advance(sequence) for sequence in sequences]

    def update(self, sequence: PlainSequence, prepared: Any) -> NoReturn:
        """Raise UnsupportedConditions, as `prepare_change`."""
        self.prepare_change(prepared)

    def finish(self, sequence: PlainSequence) -> Output:
        """End a sequence early: with what is decoded of it, which is nothing before its last step."""
        sequence.loop.close()
        return (
            self._decode(sequence, sequence.decoded_frames, True)
            if sequence.decoded_frames
            else self._silent(sequence, True)
        )

    def release(self, sequence: PlainSequence) -> None:
        """End a sequence for good, and let another begin."""
        sequence.loop.close()

    def warm(self) -> None:
        """Do nothing: the loop keeps nothing from one piece to the next."""

    def _advance(self, sequence: PlainSequence) -> Output:
        if sequence.codes is None:
            if not sequence.loop.advance():
                sequence.steps += 1
                return self._silent(sequence)
            assert sequence.loop.result is not None
            sequence.codes = sequence.loop.result
            sequence.steps = sequence.total_steps
        end = min(sequence.codes.shape[1], sequence.decoded_frames + MOST_CHUNK_FRAMES)
        return self._decode(sequence, end, end == sequence.codes.shape[1])

    def _decode(self, sequence: PlainSequence, end: int, final: bool) -> Output:
        assert sequence.codes is not None
        first = sequence.decoded_frames
        codes = sequence.codes[:, first:end]
        audio = self._codec.decode_many([sequence.decoder], [Frames(codes)], [final])[0].float().cpu()
        output = Output(sequence.steps, audio, sequence.samples, codes.cpu().numpy().astype(np.int32), first, final)
        sequence.decoded_frames, sequence.samples = end, sequence.samples + audio.shape[1]
        return output

    def _silent(self, sequence: PlainSequence, final: bool = False) -> Output:
        nothing, codes = torch.zeros(self.info.channel_count, 0), np.zeros((0, 0), np.int32)
        return Output(sequence.steps, nothing, sequence.samples, codes, sequence.decoded_frames, final)

    def _generate(self, request: GenerationRequest, known: torch.Tensor, callback: Callback) -> torch.Tensor:
        """Return all codes ``[K, T]``, window by window."""
        arguments = parameters(self._lm, request.sampling, request.two_step)
        codes, frame_count = known.to(self._device), request.frame_count or 0
        windows = self.windows(frame_count, request.stride_frames)
        masked = magnet.is_magnet(self._lm.cfg)
        while codes.shape[1] < frame_count:
            first, length = windows.at(codes.shape[1])
            made = self._lm.generate(
                codes[None, :, first:] if codes.shape[1] > first else None,
                [self._conditioner.attributes(request.prompts[0].text, self._melody(request, windows, first))],
                max_gen_len=windows.size if masked else length,
                callback=callback,
                **arguments,
            )[0]
            codes = torch.cat([codes[:, :first], made], dim=1)
            if masked:
                break
        return codes[:, :frame_count]

    def _melody(self, request: GenerationRequest, windows: Windows, first: int) -> torch.Tensor | None:
        rate = self._conditioner.melody_rate_hz
        return window_melody(request.melody, rate, self.info, first, windows.extended)


def _codec(model: Any) -> Codec:
    try:
        return codec_of(model)
    except UnsupportedCodec:
        return WholeCodec(model)
