"""StreamEncode and StreamDecode: checked messages in, messages out, one piece under way at a time.

A stream reads its next message only when all that the last one made has been taken. So a slow reader stops the
writer, and neither side can fill the memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from antiphon.codes import pack_codes
from antiphon.v1 import audio_pb2, codec_pb2
from services.codec import requests
from services.codec.engine import CodecEngine
from services.codec.requests import CodecFacts
from services.models.audio_output import AudioEncoder
from services.models.codecs import Frames
from services.models.resampling import Resampler, convert_channels
from services.runtime.errors import FailedPrecondition, FieldError, InvalidArgument

_MIN_RATE_HZ, _MAX_RATE_HZ = 4_000, 384_000
_PEAK = 65_536.0


class EncodeStream:
    """One StreamEncode. Raises InvalidArgument, NotFound, FailedPrecondition."""

    def __init__(self, config: codec_pb2.StreamEncodeConfig, engine: CodecEngine, max_seconds: float) -> None:
        with _of_config():
            self._codec = requests.find(config.model, engine.facts)
            self._books, self._decoder = requests.choice(config, self._codec)
        _check_streamable(self._codec)
        form = config.format
        if form.encoding not in (audio_pb2.AUDIO_ENCODING_PCM_S16LE, audio_pb2.AUDIO_ENCODING_PCM_F32LE):
            raise InvalidArgument("config.format.encoding", "must be PCM_S16LE or PCM_F32LE")
        rate = form.sample_rate_hz or self._codec.sample_rate_hz
        channels = form.channel_count or self._codec.channel_count
        if not _MIN_RATE_HZ <= rate <= _MAX_RATE_HZ:
            raise InvalidArgument("config.format.sample_rate_hz", f"{rate} is not {_MIN_RATE_HZ} to {_MAX_RATE_HZ}")
        if not 1 <= channels <= 2:
            raise InvalidArgument("config.format.channel_count", f"{channels} is not 1 or 2")
        self._engine, self._max_samples, self._max_seconds = engine, int(max_seconds * rate), max_seconds
        self._type = np.dtype("<i2" if form.encoding == audio_pb2.AUDIO_ENCODING_PCM_S16LE else "<f4")
        self._channels = channels
        self._resampler = Resampler(rate, self._codec.sample_rate_hz, channels, min_block=0)
        self._session = engine.codec(self._codec.name).encoding(self._books)
        self._chunks = self._received = self._samples = self._frames = 0
        self._is_final = False

    async def run(
        self, messages: AsyncIterator[codec_pb2.StreamEncodeRequest]
    ) -> AsyncIterator[codec_pb2.StreamEncodeResponse]:
        """Yield the responses."""
        yield codec_pb2.StreamEncodeResponse(started=self._summary())
        async for message in messages:
            kind = message.WhichOneof("request")
            if kind == "config":
                raise FailedPrecondition("config", "a stream takes one config; its form can't change")
            if kind is None:
                raise InvalidArgument("request", "must hold audio")
            for block in torch.split(self._checked(message.audio), self._resampler_block, dim=1):
                async for response in self._push(self._resampler.push(block), False):
                    yield response
        async for response in self._push(self._resampler.finish(), True):
            yield response
        yield codec_pb2.StreamEncodeResponse(finished=self._summary())

    @property
    def _resampler_block(self) -> int:
        # A second or so: no message, however large, keeps other streams waiting.
        return max(4_000, self._codec.sample_rate_hz)

    async def _push(self, audio: torch.Tensor, final: bool) -> AsyncIterator[codec_pb2.StreamEncodeResponse]:
        self._samples += audio.shape[1]
        if not audio.shape[1] and not final:
            return
        converted = convert_channels(audio, self._codec.channel_count)
        frames = await self._engine.push_audio(self._codec.name, self._session, converted, final)
        if not frames.codes.shape[1]:
            return
        codes = frames.codes.numpy().astype(np.int32)
        packed = pack_codes(codes, self._codec.bits_per_code, first_frame=self._frames, scales=frames.scales)
        self._frames += codes.shape[1]
        yield codec_pb2.StreamEncodeResponse(codes=packed)

    def _checked(self, chunk: audio_pb2.AudioChunk) -> torch.Tensor:
        if self._is_final:
            raise FailedPrecondition("audio", "nothing may follow the chunk that is_final")
        for field, given, due in (
            ("sequence", chunk.sequence, self._chunks),
            ("first_sample", chunk.first_sample, self._received),
        ):
            if given != due:
                raise InvalidArgument(f"audio.{field}", f"{given} came, {due} was due")
        width = self._type.itemsize * self._channels
        if len(chunk.data) != chunk.sample_count * width:
            raise InvalidArgument("audio.data", f"{len(chunk.data)} bytes, {chunk.sample_count * width} expected")
        self._chunks += 1
        self._received += chunk.sample_count
        self._is_final = chunk.is_final
        if self._received > self._max_samples:
            raise InvalidArgument("audio", f"the stream is longer than {self._max_seconds:g} s")
        return torch.from_numpy(_samples(np.frombuffer(chunk.data, self._type), self._channels))

    def _summary(self) -> codec_pb2.EncodeResponse:
        codec = self._codec
        # The form of the codes, in a message without frames; at the end also how many there were.
        form = audio_pb2.CodeFrames(
            first_frame=self._frames, codebook_count=self._books, bits_per_code=codec.bits_per_code
        )
        return codec_pb2.EncodeResponse(
            model=codec.name,
            codes=form,
            sample_count=self._samples,
            format=audio_pb2.AudioFormat(
                encoding=audio_pb2.AUDIO_ENCODING_PCM_S16LE,
                sample_rate_hz=codec.sample_rate_hz,
                channel_count=codec.channel_count,
            ),
            bandwidth_kbps=codec.codebook_kbps * self._books,
            decoder=self._decoder,
        )


class DecodeStream:
    """One StreamDecode. Raises InvalidArgument, NotFound, FailedPrecondition."""

    def __init__(self, config: codec_pb2.StreamDecodeConfig, engine: CodecEngine, max_seconds: float) -> None:
        with _of_config():
            self._codec = codec = requests.find(config.model, engine.facts)
            output = requests.output(config.output_format, codec)
            # The codes are not here yet: any number of codebooks that MultiBandDiffusion knows will do for the check.
            books = next(iter(codec.diffusions), 0) or codec.codebook_count
            requests.chosen_decoder(config.decoder, config.quality, books, codec)
        _check_streamable(codec)
        if config.decoder == codec_pb2.DECODER_MULTI_BAND_DIFFUSION:
            raise FailedPrecondition("config.decoder", "MultiBandDiffusion needs the whole piece: use Decode")
        self._engine, self._max_seconds = engine, max_seconds
        self._wanted = config.sample_count
        self._max_frames = int(max_seconds * codec.frame_rate_hz)
        total = config.sample_count or None
        self._encoder = AudioEncoder(output, codec.sample_rate_hz, codec.channel_count, total)
        self._session = engine.codec(codec.name).decoding()
        self._frames = self._books = self._decoded = 0
        self._chunks = self._first_sample = 0
        self._scale: float | None = None

    async def run(
        self, messages: AsyncIterator[codec_pb2.StreamDecodeRequest]
    ) -> AsyncIterator[codec_pb2.StreamDecodeResponse]:
        """Yield the responses."""
        yield codec_pb2.StreamDecodeResponse(
            format=requests.form_of(self._encoder.output),
            decoder=codec_pb2.DECODER_ENCODEC,
        )
        async for message in messages:
            kind = message.WhichOneof("request")
            if kind == "config":
                raise FailedPrecondition("config", "a stream takes one config; its form can't change")
            if kind is None:
                raise InvalidArgument("request", "must hold codes")
            codes = torch.from_numpy(self._checked(message.codes)).long()
            loudness = requests.scales(message.codes, self._codec)
            self._check_segment(message.codes, loudness)
            self._frames += codes.shape[1]
            for begin in range(0, codes.shape[1], 64):
                block = Frames(codes[:, begin : begin + 64], loudness[begin : begin + 64])
                if response := self._chunk(await self._push(block, False), False):
                    yield response
        held = self._codec.held(self._frames) if self._frames else 0
        if self._wanted > held:
            raise InvalidArgument("config.sample_count", f"{self._wanted} is more than the {held} that the codes hold")
        nothing = Frames(torch.zeros(self._books or self._codec.codebook_count, 0, dtype=torch.long))
        last = self._chunk(await self._push(nothing, True), True)
        assert last is not None
        yield last

    async def _push(self, frames: Frames, final: bool) -> torch.Tensor:
        audio = await self._engine.push_codes(self._codec.name, self._session, frames, final)
        if self._wanted:
            audio = audio[:, : max(0, self._wanted - self._decoded)]
        self._decoded += audio.shape[1]
        return audio if audio.shape[1] else torch.zeros(self._codec.channel_count, 0)

    def _chunk(self, audio: torch.Tensor, final: bool) -> codec_pb2.StreamDecodeResponse | None:
        before = self._encoder.sample_count
        data = self._encoder.encode(audio) + (self._encoder.finish() if final else b"")
        if not data and not final:
            return None
        count = self._encoder.sample_count - self._first_sample
        assert before >= self._first_sample
        chunk = audio_pb2.AudioChunk(
            sequence=self._chunks, first_sample=self._first_sample, sample_count=count, data=data, is_final=final
        )
        self._chunks += 1
        self._first_sample += count
        return codec_pb2.StreamDecodeResponse(audio=chunk)

    def _checked(self, frames: audio_pb2.CodeFrames) -> NDArray[np.int32]:
        if frames.first_frame != self._frames:
            raise InvalidArgument("codes.first_frame", f"{frames.first_frame} came, {self._frames} was due")
        if frames.frame_count > self._max_frames - self._frames:
            raise InvalidArgument("codes.frame_count", f"the stream is longer than {self._max_seconds:g} s")
        codes = requests.unpacked(frames, self._codec, self._max_frames)
        if self._books and codes.shape[0] != self._books:
            raise InvalidArgument("codes.codebook_count", f"{codes.shape[0]}, and {self._books} in the frames before")
        self._books = codes.shape[0]
        return codes

    def _check_segment(self, frames: audio_pb2.CodeFrames, loudness: list[float]) -> None:
        """The loudness of a segment must not change between two messages either."""
        begins = self._codec.segment_frames and frames.first_frame % self._codec.segment_frames == 0
        if loudness and self._scale is not None and not begins and loudness[0] != self._scale:
            raise InvalidArgument("codes.scales", "change within a segment")
        self._scale = loudness[-1] if loudness else None


@contextlib.contextmanager
def _of_config() -> Iterator[None]:
    """Name the fields of what is raised as those of the config."""
    try:
        yield
    except FieldError as error:
        violation = error.violations[0]
        raise type(error)(f"config.{violation.field}", violation.description) from error


def _check_streamable(codec: CodecFacts) -> None:
    if not codec.is_streamable:
        raise FailedPrecondition("config.model", f"{codec.name} only runs on whole pieces: use Encode and Decode")


def _samples(values: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """Return float32 ``[C, n]`` of interleaved values. Raises InvalidArgument."""
    samples = values.reshape(-1, channels).T
    if values.dtype.kind == "i":
        return np.ascontiguousarray(samples, dtype=np.float32) / 32768.0
    # A NaN is not below the peak either.
    if values.size and not np.abs(samples).max() <= _PEAK:
        raise InvalidArgument("audio.data", f"holds samples that are not finite or pass {_PEAK:g}")
    return np.ascontiguousarray(samples, dtype=np.float32)
