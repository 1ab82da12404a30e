"""From events to messages."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from antiphon.codes import bits_per_code, pack_codes
from antiphon.v1 import audio_pb2, generator_pb2
from services.generator import requests
from services.generator.output import Output
from services.generator.requests import GenerationRequest
from services.generator.residents import Model
from services.generator.streams import Event, Finished, Reason, Updated
from services.models.audio import to_pcm16, to_pcm_f32
from services.runtime.messages import duration

_REASONS = {
    Reason.COMPLETE: generator_pb2.GenerationFinished.REASON_COMPLETE,
    Reason.STOPPED: generator_pb2.GenerationFinished.REASON_STOPPED,
}
_UNKNOWN_LENGTH = 0xFFFFFFFF


class Replies:
    """What one generation answers."""

    def __init__(self, request: GenerationRequest, model: Model) -> None:
        self._request = request
        self._info = model.info
        hop = model.engine.samples_per_frame
        known = 0 if request.continuation is None else -(-request.continuation.shape[1] // hop)
        self._total_steps = model.engine.step_count(request.frame_count, known, request.stride_frames)
        self._total_samples = (request.frame_count or 0) * hop
        self._sequence = 0

    def started(self, config: generator_pb2.GenerationConfig) -> generator_pb2.GenerationStarted:
        """Return what the config was taken to mean."""
        return generator_pb2.GenerationStarted(
            config=requests.effective(config, self._request, self._info),
            format=requests.audio_format(self._request, self._info),
            frame_rate_hz=self._info.frame_rate_hz,
            total_samples=self._total_samples,
            total_steps=self._total_steps,
            model_version=self._info.version,
        )

    def responses(self, event: Event) -> Iterator[generator_pb2.StreamGenerateResponse]:
        """Yield the messages of an event, in order."""
        if isinstance(event, Finished):
            yield generator_pb2.StreamGenerateResponse(finished=self.finished(event))
            return
        if isinstance(event, Updated):
            applied = generator_pb2.AppliedUpdate(step=event.step, update=requests.update_message(event.change))
            yield generator_pb2.StreamGenerateResponse(updated=applied)
            return
        progress = generator_pb2.GenerationProgress(steps=event.steps, total_steps=self._total_steps)
        yield generator_pb2.StreamGenerateResponse(progress=progress)
        if self._request.include_codes and event.codes.size:
            yield generator_pb2.StreamGenerateResponse(codes=self.codes(event))
        if event.audio.numel() or event.final:
            chunk = audio_pb2.AudioChunk(
                sequence=self._sequence,
                first_sample=event.first_sample,
                sample_count=event.audio.shape[1],
                data=self.pcm(event),
                is_final=event.final,
            )
            yield generator_pb2.StreamGenerateResponse(audio=chunk)
            self._sequence += 1

    def finished(self, event: Finished) -> generator_pb2.GenerationFinished:
        """Return how it ended."""
        return generator_pb2.GenerationFinished(
            reason=_REASONS[event.reason],
            audio_duration=duration(event.samples / self._info.sample_rate_hz),
            queue_time=duration(event.queue_seconds),
            first_audio_time=duration(event.first_audio_seconds),
            total_time=duration(event.total_seconds),
            steps=event.steps,
        )

    def codes(self, output: Output) -> audio_pb2.CodeFrames:
        """Return the codes of an output."""
        return pack_codes(output.codes, bits_per_code(self._info.codebook_size), first_frame=output.first_frame)

    def pcm(self, output: Output) -> bytes:
        """Return the audio of an output as bytes, the header of a file before the first of them."""
        audio = output.audio
        if not audio.numel():
            data = b""
        elif self._request.encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE:
            data = to_pcm_f32(audio)
        else:
            data = to_pcm16(audio)
        is_start = output.first_sample == 0 and (data or output.final)
        if self._request.encoding == audio_pb2.AUDIO_ENCODING_WAV and is_start:
            return self._wav_header() + data
        return data

    def _wav_header(self) -> bytes:
        """Return the header of a 16-bit RIFF WAVE file whose samples are all to come."""
        channels, rate = self._info.channel_count, self._info.sample_rate_hz
        size = self._total_samples * 2 * channels or _UNKNOWN_LENGTH - 36
        riff = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
        return riff + form + struct.pack("<4sI", b"data", size)


def empty(output: Output) -> bool:
    """Tell whether an output has nothing for a file: no audio, and not the end."""
    return not (output.audio.numel() or output.final)
