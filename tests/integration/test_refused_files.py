"""What a service refuses, it lets go of: no file waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import grpc
import pytest

from antiphon.v1 import analyzer_pb2, analyzer_pb2_grpc, codec_pb2, codec_pb2_grpc
from services.analyzer.service import AnalyzerService
from services.analyzer.settings import AnalyzerSettings
from services.codec.service import CodecService
from services.codec.settings import CodecSettings
from tests.integration.audio_service import body, refused, serving

FILE_BYTES = 8 << 20


@pytest.mark.parametrize("name", ["codec", "analyzer"])
async def test_refused_files_are_let_go_of(name: str) -> None:
    own: dict[str, Any] = {"listen": "127.0.0.1:0", "metrics_listen": "", "device": "cpu", "threads": 1}
    settings: Any
    service: Any
    request: Any
    if name == "codec":
        settings = CodecSettings(models=("tiny",), **own)
        service, request = CodecService(settings), codec_pb2.EncodeRequest()
    else:
        settings = AnalyzerSettings(analyzer_weights="untrained", **own)
        service, request = AnalyzerService(settings), analyzer_pb2.AnalyzeRequest()
    request.audio.CopyFrom(body(bytes(FILE_BYTES)))
    async with serving(service, settings) as channel:
        stubs: Any = codec_pb2_grpc.CodecServiceStub if name == "codec" else analyzer_pb2_grpc.AnalyzerServiceStub
        stub = stubs(channel)
        call = stub.Encode if name == "codec" else stub.Analyze

        async def refuse() -> None:
            assert await refused(call(request)) == (grpc.StatusCode.INVALID_ARGUMENT, "audio")

        await refuse()
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(4):
                await refuse()
            # The caller has the answer a moment before the call's last frame is gone.
            async with asyncio.timeout(10):
                while tracemalloc.get_traced_memory()[0] > FILE_BYTES:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            tracemalloc.stop()
            gc.enable()
