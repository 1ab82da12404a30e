"""Streams of a codec that must be refused: what is sent, the status code and the field that is at fault."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from antiphon.codes import pack_codes
from antiphon.v1 import audio_pb2, codec_pb2
from tests import codec_models
from tests.integration.codec_streams import BITS, BOOKS, F32, HOP, RATE, chunks, decode_config, encode_config, frames

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION

AUDIO = codec_models.noise(0.1, RATE)
GOOD = list(chunks(AUDIO, [1_000, 1_000, 400]))


def chunk(**changes: Any) -> codec_pb2.StreamEncodeRequest:
    """The second chunk with fields that do not fit."""
    request = codec_pb2.StreamEncodeRequest()
    request.CopyFrom(GOOD[1])
    for name, value in changes.items():
        setattr(request.audio, name, value)
    return request


def form(**fields: Any) -> codec_pb2.StreamEncodeRequest:
    return encode_config(format=audio_pb2.AudioFormat(**{"encoding": F32, **fields}))


NAN = np.full(1_000, np.nan, "<f4").tobytes()
LONG = audio_pb2.AudioChunk(sequence=1, first_sample=1_000, sample_count=191_001, data=bytes(4 * 191_001))
START = encode_config(rate=RATE)
BAD_AUDIO: dict[str, tuple[list[codec_pb2.StreamEncodeRequest], grpc.StatusCode, str]] = {
    "nothing": ([], PRECONDITION, "config"),
    "data before config": (GOOD[:1], PRECONDITION, "audio"),
    "second config": ([START, GOOD[0], START], PRECONDITION, "config"),
    "another rate": ([START, GOOD[0], encode_config(rate=48_000)], PRECONDITION, "config"),
    "empty message": ([START, codec_pb2.StreamEncodeRequest()], INVALID, "request"),
    "gap in numbers": ([START, GOOD[0], chunk(sequence=2)], INVALID, "audio.sequence"),
    "gap in samples": ([START, GOOD[0], chunk(first_sample=999)], INVALID, "audio.first_sample"),
    "out of order": ([START, GOOD[1], GOOD[0]], INVALID, "audio.sequence"),
    "fewer bytes": ([START, GOOD[0], chunk(data=b"1234")], INVALID, "audio.data"),
    "another form": ([START, GOOD[0], chunk(data=bytes(2_000))], INVALID, "audio.data"),
    "half a sample": ([START, GOOD[0], chunk(data=bytes(3_999))], INVALID, "audio.data"),
    "NaN": ([START, GOOD[0], chunk(data=NAN)], INVALID, "audio.data"),
    "after the end": ([START, *GOOD, chunk(sequence=3, first_sample=2_400)], PRECONDITION, "audio"),
    "too long": ([START, GOOD[0], codec_pb2.StreamEncodeRequest(audio=LONG)], INVALID, "audio"),
    "encoding": ([form(encoding=audio_pb2.AUDIO_ENCODING_WAV)], INVALID, "config.format.encoding"),
    "no encoding": ([form(encoding=0)], INVALID, "config.format.encoding"),
    "rate": ([form(sample_rate_hz=1)], INVALID, "config.format.sample_rate_hz"),
    "negative rate": ([form(sample_rate_hz=-1)], INVALID, "config.format.sample_rate_hz"),
    "64 channels": ([form(channel_count=64)], INVALID, "config.format.channel_count"),
    "unknown model": ([encode_config("nowhere")], grpc.StatusCode.NOT_FOUND, "config.model"),
    "many codebooks": ([encode_config(codebook_count=5)], INVALID, "config.codebook_count"),
    "narrow": ([encode_config(bandwidth_kbps=0.1)], INVALID, "config.bandwidth_kbps"),
}

CODES = np.random.default_rng(1).integers(0, 512, (BOOKS, 30), dtype=np.int32)
FIRST, SECOND = frames(CODES, BITS, [10, 20])


def changed(**changes: Any) -> codec_pb2.StreamDecodeRequest:
    """The second frames with fields that do not fit."""
    request = codec_pb2.StreamDecodeRequest()
    request.CopyFrom(SECOND)
    for name, value in changes.items():
        if name == "scales":
            request.codes.scales.extend(value)
        else:
            setattr(request.codes, name, value)
    return request


FEWER = codec_pb2.StreamDecodeRequest(codes=pack_codes(CODES[:2, 10:], BITS, first_frame=10))
MORE = codec_pb2.StreamDecodeRequest(codes=pack_codes(np.zeros((5, 10), np.int32), BITS))
ENDLESS = codec_pb2.StreamDecodeRequest(codes=pack_codes(np.zeros((1, 601), np.int32), BITS))
BEGIN = decode_config()
MBD = codec_pb2.DECODER_MULTI_BAND_DIFFUSION
BAD_CODES: dict[str, tuple[list[codec_pb2.StreamDecodeRequest], grpc.StatusCode, str]] = {
    "nothing": ([], PRECONDITION, "config"),
    "codes before config": ([FIRST], PRECONDITION, "codes"),
    "second config": ([BEGIN, FIRST, BEGIN], PRECONDITION, "config"),
    "empty message": ([BEGIN, codec_pb2.StreamDecodeRequest()], INVALID, "request"),
    "out of order": ([BEGIN, SECOND], INVALID, "codes.first_frame"),
    "again": ([BEGIN, FIRST, FIRST], INVALID, "codes.first_frame"),
    "short data": ([BEGIN, FIRST, changed(data=bytes(89))], INVALID, "codes.data"),
    "no frames": ([BEGIN, FIRST, changed(frame_count=0)], INVALID, "codes.frame_count"),
    "many frames": ([BEGIN, FIRST, changed(frame_count=2**32 - 1)], INVALID, "codes.frame_count"),
    "other bits": ([BEGIN, FIRST, changed(bits_per_code=10)], INVALID, "codes.bits_per_code"),
    "fewer codebooks": ([BEGIN, FIRST, FEWER], INVALID, "codes.codebook_count"),
    "more codebooks": ([BEGIN, MORE], INVALID, "codes.codebook_count"),
    "scales": ([BEGIN, FIRST, changed(scales=[1.0] * 20)], INVALID, "codes.scales"),
    "too long": ([BEGIN, ENDLESS], INVALID, "codes.frame_count"),
    "more samples than codes": (
        [decode_config(sample_count=30 * HOP + 1), FIRST, SECOND],
        INVALID,
        "config.sample_count",
    ),
    "unknown model": ([decode_config("nowhere")], grpc.StatusCode.NOT_FOUND, "config.model"),
    "diffusion": ([decode_config(decoder=MBD)], PRECONDITION, "config.decoder"),
    "both": ([decode_config(decoder=1, quality=1)], INVALID, "config.quality"),
    "rate": (
        [decode_config(output_format=audio_pb2.AudioFormat(sample_rate_hz=1))],
        INVALID,
        "config.output_format.sample_rate_hz",
    ),
}
