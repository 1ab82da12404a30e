"""Entropy coding through the service, against the arithmetic coding of the public `encodec` package."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from encodec.model import EncodecModel, LMModel
from transformers import EncodecConfig
from transformers import EncodecModel as HubModel

from antiphon.codes import pack_codes, unpack_codes
from antiphon.ecdc import PUBLIC_FORMS, EcdcFile
from antiphon.v1 import codec_pb2, codec_pb2_grpc
from services.codec.service import CodecService
from services.codec.settings import CodecSettings
from tests.integration.audio_service import refused, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME, BOOKS, CONTEXT = "encodec_24khz", 4, int(3.5 * 75)
# 21 frames: a length that `encodec` reads as 22.
LENGTHS = [1, 21 * 320, 30 * 320 - 7]
encodec: Any = importlib.import_module("encodec.compress")


@dataclasses.dataclass(frozen=True)
class Served:
    """The running service, its model's name, and the language model that it loaded."""

    stub: Any
    name: str
    lm: LMModel


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("models") / NAME
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncodecConfig(num_filters=2, hidden_size=8, codebook_dim=8, num_lstm_layers=1, target_bandwidths=[3.0])
        HubModel(config).save_pretrained(folder)
        lm = LMModel(BOOKS, 1024, 16, num_layers=1, past_context=CONTEXT).eval()
        for name, parameter in lm.named_parameters():
            if name.startswith("linears."):
                parameter.data *= 20
    torch.save(lm.state_dict(), folder / "encodec_lm_24khz-test.th")
    settings = CodecSettings(
        listen="127.0.0.1:0", metrics_listen="", models=(str(folder), "tiny"), device="cpu", max_audio_seconds=2.0
    )
    async with serving(CodecService(settings), settings) as channel:
        yield Served(codec_pb2_grpc.CodecServiceStub(channel), str(folder), lm)


def some_codes(samples: int) -> np.ndarray:
    frames = PUBLIC_FORMS[NAME].frames(samples)
    return np.random.default_rng(samples).integers(0, 1024, (BOOKS, frames), np.int32)


async def compressed(served: Served, codes: np.ndarray, samples: int) -> bytes:
    request = codec_pb2.CompressCodesRequest(codes=pack_codes(codes, 10), sample_count=samples)
    reply = await served.stub.CompressCodes(request)
    assert reply.model == served.name
    return bytes(reply.data)


async def test_what_is_compressed_expands_to_the_same(served: Served) -> None:
    for samples in LENGTHS:
        codes = some_codes(samples)
        data = await compressed(served, codes, samples)
        request = codec_pb2.ExpandCodesRequest(data=data, codebook_count=BOOKS, sample_count=samples)
        reply = await served.stub.ExpandCodes(request)
        assert np.array_equal(unpack_codes(reply.codes), codes)
        assert (reply.sample_count, reply.format.sample_rate_hz, reply.bandwidth_kbps) == (samples, 24_000, 3.0)


async def test_encodec_reads_ours_and_we_read_theirs(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        model = EncodecModel._get_model([3.0], 24_000, 1, causal=True, name=NAME)
    model.set_target_bandwidth(3.0)
    monkeypatch.setattr(model, "get_lm_model", lambda: served.lm)
    monkeypatch.setitem(encodec.MODELS, NAME, lambda: model)
    read: list[Any] = []

    def noted(frames: Any) -> torch.Tensor:
        read.append(frames)
        return torch.zeros(1, 1, 1 << 20)

    monkeypatch.setattr(model, "decode", noted)
    for samples in LENGTHS:
        codes = some_codes(samples)
        data = await compressed(served, codes, samples)
        file = EcdcFile(NAME, samples, BOOKS, True, data, PUBLIC_FORMS[NAME])
        encodec.decompress(file.to_bytes())
        assert np.array_equal(read[-1][0][0][0, :, : codes.shape[1]].numpy(), codes)
        monkeypatch.setattr(model, "encode", lambda _, codes=codes: [(torch.from_numpy(codes)[None], None)])
        theirs = EcdcFile.read(encodec.compress(model, torch.zeros(1, samples), use_lm=True))
        assert theirs.is_entropy_coded
        request = codec_pb2.ExpandCodesRequest(data=theirs.payload, codebook_count=BOOKS, sample_count=samples)
        assert np.array_equal(unpack_codes((await served.stub.ExpandCodes(request)).codes), codes)


async def test_likely_codes_take_few_bytes(served: Served) -> None:
    with torch.inference_mode():
        states, offset, frame, frames = None, 0, torch.zeros(1, BOOKS, 1, dtype=torch.long), []
        for _ in range(30):
            likely, states, offset = served.lm(frame, states, offset)
            frames.append(likely[0, :, :, 0].argmax(dim=0))
            frame = 1 + frames[-1][None, :, None]
    codes = torch.stack(frames, dim=1).numpy().astype(np.int32)
    assert len(await compressed(served, codes, 30 * 320)) < 0.5 * 30 * BOOKS * 10 / 8


GOOD = pack_codes(np.zeros((BOOKS, 3), np.int32), 10)


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        ({"model": "tiny", "codes": GOOD, "sample_count": 960}, grpc.StatusCode.FAILED_PRECONDITION, "model"),
        ({"model": "nobody", "codes": GOOD, "sample_count": 960}, grpc.StatusCode.NOT_FOUND, "model"),
        ({"codes": GOOD}, grpc.StatusCode.INVALID_ARGUMENT, "sample_count"),
        ({"codes": GOOD, "sample_count": 48_001}, grpc.StatusCode.INVALID_ARGUMENT, "sample_count"),
        ({"codes": GOOD, "sample_count": 961}, grpc.StatusCode.INVALID_ARGUMENT, "codes.frame_count"),
        ({"sample_count": 960}, grpc.StatusCode.INVALID_ARGUMENT, "codes.codebook_count"),
        (
            {"codes": pack_codes(np.zeros((BOOKS, 3), np.int32), 9), "sample_count": 960},
            grpc.StatusCode.INVALID_ARGUMENT,
            "codes.bits_per_code",
        ),
        (
            {"codes": pack_codes(np.zeros((BOOKS, 3), np.int32), 10, scales=[1.0] * 3), "sample_count": 960},
            grpc.StatusCode.INVALID_ARGUMENT,
            "codes.scales",
        ),
    ],
)
async def test_refuses_to_compress(served: Served, request_: dict[str, Any], code: grpc.StatusCode, field: str) -> None:
    found, blamed = await refused(served.stub.CompressCodes(codec_pb2.CompressCodesRequest(**request_)))
    assert found == code
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        assert blamed == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"data": b"", "codebook_count": BOOKS, "sample_count": 960}, "data"),
        ({"data": b"\x00", "codebook_count": BOOKS, "sample_count": 32_000}, "data"),
        ({"data": bytes(100), "codebook_count": 0, "sample_count": 960}, "codebook_count"),
        ({"data": bytes(100), "codebook_count": 5, "sample_count": 960}, "codebook_count"),
        ({"data": bytes(100), "codebook_count": BOOKS, "sample_count": 0}, "sample_count"),
    ],
)
async def test_refuses_to_expand(served: Served, request_: dict[str, Any], field: str) -> None:
    call = served.stub.ExpandCodes(codec_pb2.ExpandCodesRequest(**request_))
    assert await refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    # It goes on.
    assert await compressed(served, some_codes(320), 320)


async def test_noise_expands_to_something_or_is_refused(served: Served) -> None:
    for seed in range(10):
        data = np.random.default_rng(seed).bytes(60)
        request = codec_pb2.ExpandCodesRequest(data=data, codebook_count=BOOKS, sample_count=20 * 320)
        try:
            codes = unpack_codes((await served.stub.ExpandCodes(request)).codes)
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert codes.shape == (BOOKS, 20)
