"""What tests say to StreamEncode and StreamDecode, and how they read what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from antiphon.codes import pack_codes, unpack_codes
from antiphon.v1 import audio_pb2, codec_pb2

F32 = audio_pb2.AUDIO_ENCODING_PCM_F32LE
RATE, HOP, BITS = 24_000, 320, 9
BOOKS = 4


@dataclasses.dataclass(frozen=True)
class Served:
    """The running service with a causal codec, one that is not, one of segments and one that only runs whole."""

    channel: Any
    stub: Any
    names: dict[str, str]
    references: dict[str, Any]


def encode_config(model: str = "", rate: int = 0, channels: int = 0, **fields: Any) -> codec_pb2.StreamEncodeRequest:
    form = audio_pb2.AudioFormat(encoding=F32, sample_rate_hz=rate, channel_count=channels)
    return codec_pb2.StreamEncodeRequest(
        config=codec_pb2.StreamEncodeConfig(**{"model": model, "format": form, **fields})
    )


def chunks(audio: torch.Tensor, sizes: Iterable[int]) -> Iterator[codec_pb2.StreamEncodeRequest]:
    first = 0
    for number, size in enumerate(sizes):
        if number and first >= audio.shape[1]:
            return
        block = audio[:, first : first + size]
        yield codec_pb2.StreamEncodeRequest(
            audio=audio_pb2.AudioChunk(
                sequence=number,
                first_sample=first,
                sample_count=block.shape[1],
                data=block.T.contiguous().numpy().tobytes(),
                is_final=first + size >= audio.shape[1],
            )
        )
        first += size


async def encode(
    served: Served, config: codec_pb2.StreamEncodeRequest, audio: torch.Tensor, sizes: Iterable[int]
) -> tuple[NDArray[np.int32], list[float], list[Any]]:
    responses = [each async for each in served.stub.StreamEncode(iter([config, *chunks(audio, sizes)]))]
    kinds = [response.WhichOneof("response") for response in responses]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("started", "finished", {"codes"})
    parts, due = [], 0
    for response in responses[1:-1]:
        assert response.codes.first_frame == due
        due += response.codes.frame_count
        parts.append(unpack_codes(response.codes))
    assert responses[-1].finished.codes.first_frame == due
    return np.concatenate(parts, axis=1), [s for r in responses for s in r.codes.scales], responses


def decode_config(model: str = "", **fields: Any) -> codec_pb2.StreamDecodeRequest:
    form = audio_pb2.AudioFormat(encoding=F32)
    return codec_pb2.StreamDecodeRequest(
        config=codec_pb2.StreamDecodeConfig(**{"model": model, "output_format": form, **fields})
    )


def frames(
    codes: NDArray[np.int32], bits: int, sizes: Iterable[int], scales: list[float] | None = None
) -> Iterator[codec_pb2.StreamDecodeRequest]:
    first = 0
    for size in filter(None, sizes):
        part = pack_codes(
            codes[:, first : first + size], bits, first_frame=first, scales=(scales or [])[first : first + size]
        )
        yield codec_pb2.StreamDecodeRequest(codes=part)
        first += size


async def decode(served: Served, requests: Iterable[codec_pb2.StreamDecodeRequest]) -> tuple[Any, list[Any]]:
    responses = [each async for each in served.stub.StreamDecode(iter(list(requests)))]
    form, parts, first = responses[0].format, [], 0
    for number, response in enumerate(responses[1:]):
        chunk = response.audio
        assert (chunk.sequence, chunk.first_sample) == (number, first)
        assert chunk.is_final == (number == len(responses) - 2)
        first += chunk.sample_count
        parts.append(np.frombuffer(chunk.data, "<f4").reshape(-1, form.channel_count))
    joined = np.concatenate(parts).T
    assert joined.shape[1] == first
    return joined, responses


@torch.no_grad()
def reference(served: Served, name: str, audio: torch.Tensor) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    model = served.references[name]
    codes, _ = model.encode(audio[None])
    return codes[0].numpy().astype(np.int32), model.decode(codes)[0].numpy()
