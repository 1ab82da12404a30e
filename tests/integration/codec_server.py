"""The codec of the client's tests with its streams; the model's name says how it misbehaves."""

# ruff: noqa: N802 - methods bear the names of the proto
from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from antiphon import pack_codes, unpack_codes
from antiphon.v1 import audio_pb2, codec_pb2
from tests.integration.client_server import CHANNELS, FRAME, RATE, Codec, piece_codes, tone

MADE = b"what an encoder made"
COMPRESSED = b"COMPRESSED"


@dataclass
class StreamingCodec(Codec):
    """Takes any audio; what it hears becomes `piece_codes`, and any codes become `tone`."""

    encode_configs: list[codec_pb2.StreamEncodeConfig] = field(default_factory=list)
    decode_configs: list[codec_pb2.StreamDecodeConfig] = field(default_factory=list)
    chunks: list[audio_pb2.AudioChunk] = field(default_factory=list)
    frames: list[audio_pb2.CodeFrames] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def Encode(self, request: codec_pb2.EncodeRequest, context: Any) -> codec_pb2.EncodeResponse:
        self.requests.append(request)
        if request.audio.data == b"broken":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audio: is not audio that can be read")
        frames = 50
        return codec_pb2.EncodeResponse(
            model="tiny",
            codes=pack_codes(piece_codes(0, frames), 10),
            sample_count=frames * FRAME - 3,
            format=audio_pb2.AudioFormat(sample_rate_hz=RATE, channel_count=CHANNELS),
            bandwidth_kbps=2.0,
        )

    def Decode(self, request: codec_pb2.DecodeRequest, context: Any) -> codec_pb2.DecodeResponse:
        self.requests.append(request)
        if request.output_format.encoding <= audio_pb2.AUDIO_ENCODING_PCM_F32LE:
            return super().Decode(request, context)
        form = audio_pb2.AudioFormat()
        form.CopyFrom(request.output_format)
        form.sample_rate_hz, form.channel_count = RATE, CHANNELS
        return codec_pb2.DecodeResponse(audio=MADE, format=form, sample_count=request.sample_count)

    def StreamEncode(self, request_iterator: Any, context: Any) -> Iterator[codec_pb2.StreamEncodeResponse]:
        context.add_callback(self.ended.set)
        config = next(request_iterator).config
        self.encode_configs.append(config)
        books = config.codebook_count or 4
        started = codec_pb2.EncodeResponse(
            model="tiny",
            codes=audio_pb2.CodeFrames(codebook_count=books, bits_per_code=10),
            format=audio_pb2.AudioFormat(sample_rate_hz=RATE, channel_count=CHANNELS),
            bandwidth_kbps=0.5 * books,
        )
        if config.model == "no start":
            yield codec_pb2.StreamEncodeResponse(finished=started)
        yield codec_pb2.StreamEncodeResponse(started=started)
        samples = sent = 0
        for request in request_iterator:
            self.chunks.append(request.audio)
            samples += request.audio.sample_count
            ready = samples // FRAME if not request.audio.is_final else -(-samples // FRAME)
            if ready > sent:
                first = sent + (1 if config.model == "gap" and sent else 0)
                codes = pack_codes(piece_codes(sent, ready - sent)[:books], 10, first_frame=first)
                yield codec_pb2.StreamEncodeResponse(codes=codes)
                sent = ready
            if request.audio.is_final:
                break
        if config.model != "truncated":
            yield codec_pb2.StreamEncodeResponse(finished=codec_pb2.EncodeResponse(sample_count=samples))

    def StreamDecode(self, request_iterator: Any, context: Any) -> Iterator[codec_pb2.StreamDecodeResponse]:
        context.add_callback(self.ended.set)
        config = next(request_iterator).config
        self.decode_configs.append(config)
        form = audio_pb2.AudioFormat()
        form.CopyFrom(config.output_format)
        form.sample_rate_hz, form.channel_count = RATE, CHANNELS
        number = first = 0
        for frames in request_iterator:
            self.frames.append(frames.codes)
            count = frames.codes.frame_count * FRAME
            chunk = _chunk(form, number + (config.model == "gap" and number > 0), first, count)
            yield codec_pb2.StreamDecodeResponse(audio=chunk, format=None if number else form)
            number, first = number + 1, first + count
        if config.model != "truncated":
            last = audio_pb2.AudioChunk(sequence=number, first_sample=first, is_final=True)
            yield codec_pb2.StreamDecodeResponse(audio=last, format=None if number else form)

    def CompressCodes(self, request: codec_pb2.CompressCodesRequest, context: Any) -> codec_pb2.CompressCodesResponse:
        self.requests.append(request)
        if request.codes.codebook_count == 1:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "model: tiny has no language model")
        return codec_pb2.CompressCodesResponse(model="tiny", data=COMPRESSED)

    def ExpandCodes(self, request: codec_pb2.ExpandCodesRequest, context: Any) -> codec_pb2.ExpandCodesResponse:
        self.requests.append(request)
        return codec_pb2.ExpandCodesResponse(
            model="tiny",
            codes=pack_codes(piece_codes(0, 5)[: request.codebook_count], 10),
            sample_count=request.sample_count,
            format=audio_pb2.AudioFormat(sample_rate_hz=RATE, channel_count=CHANNELS),
            bandwidth_kbps=2.0,
        )

    @property
    def heard(self) -> bytes:
        """All audio that came."""
        return b"".join(chunk.data for chunk in self.chunks)

    @property
    def codes(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """All codes that came, [K, T]."""
        return np.concatenate([unpack_codes(frames) for frames in self.frames], axis=1)


def _chunk(form: audio_pb2.AudioFormat, number: int, first: int, count: int) -> audio_pb2.AudioChunk:
    samples = tone(first, count)
    data = samples.tobytes()
    if form.encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE:
        data = (samples.astype("<f4") / np.float32(32767)).tobytes()
    elif form.encoding != audio_pb2.AUDIO_ENCODING_PCM_S16LE:
        data = MADE
    return audio_pb2.AudioChunk(sequence=number, first_sample=first, sample_count=count, data=data)
