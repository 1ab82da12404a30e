"""The analyzer with the weights that it comes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc
from services.analyzer.service import AnalyzerService
from services.analyzer.settings import AnalyzerSettings
from services.models.loader import load_codec
from tests.audio_files import encoded
from tests.integration.audio_service import body, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


def plucked(seconds: float, rate: int) -> torch.Tensor:
    """Strings, four notes a second, ``[1, T]``."""
    time, notes = torch.arange(round(seconds * rate)) / rate, np.random.default_rng(0).integers(0, 24, 64)
    audio = torch.zeros_like(time)
    for index in range(int(seconds * 4)):
        since, hertz = (time - index / 4).clamp(min=0), 220 * 2 ** (int(notes[index]) / 12)
        for harmonic in range(1, 9):
            decay = torch.exp(-since * (2 + harmonic)) * 0.1 / harmonic
            audio += decay * torch.sin(2 * torch.pi * hertz * harmonic * since)
    return audio[None]


@pytest.mark.parametrize("name", ["tiny", "tiny-sound"])
async def test_the_shipped_weights_tell_a_piece_from_what_an_embedded_codec_makes_of_it(name: str) -> None:
    codec: Any = load_codec(name).model
    real = plucked(4.0, codec.sample_rate)
    with torch.inference_mode():
        generated = codec.decode(codec.encode(real[None])[0])[0]
    settings = AnalyzerSettings(listen="127.0.0.1:0", metrics_listen="", device="cpu")
    async with serving(AnalyzerService(settings), settings) as channel:
        stub: Any = analyzer_pb2_grpc.AnalyzerServiceStub(channel)
        (model,) = (await stub.ListModels(analyzer_pb2.AnalyzerServiceListModelsRequest())).models
        for audio, verdict in ((real, analyzer_pb2.VERDICT_REAL), (generated, analyzer_pb2.VERDICT_GENERATED)):
            data = encoded("wav", audio[0].numpy(), codec.sample_rate)
            reply = await stub.Analyze(analyzer_pb2.AnalyzeRequest(audio=body(data)))
            assert (reply.verdict, reply.model) == (verdict, model)
            assert model.is_trained
            assert reply.training_sources
