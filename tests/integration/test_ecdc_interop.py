"""The service, the client and the public `encodec` package on the same weights: the same codes, the same files."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import soundfile
import torch
from encodec.model import EncodecModel
from transformers import EncodecConfig
from transformers import EncodecModel as HubModel

from antiphon import AsyncClient, EcdcFile, read_ecdc
from services.codec.service import CodecService
from services.codec.settings import CodecSettings
from services.runtime.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

encodec: Any = importlib.import_module("encodec.compress")
RENAMED = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(?:conv|convtr)\.(?:conv|convtr)\.", ".conv."),
    (r"\.(?:conv|convtr)\.norm\.", ".norm."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"^quantizer\.vq\.", "quantizer."),
    (r"\._codebook\.", ".codebook."),
)


def public_model() -> EncodecModel:
    """The package's 24 kHz model in its true shapes, with weights by chance."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: EncodecModel = EncodecModel.encodec_model_24khz(pretrained=False)
        # Untrained, the encoder says almost the same of all audio: the first codebook is a sample of that.
        with torch.no_grad():
            latent = model.encoder(torch.randn(1, 1, 48_000) * 0.1)[0].T
        for index, layer in enumerate(model.quantizer.vq.layers):
            spread = latent.std(dim=0) * 0.8**index
            layer._codebook.inited.fill_(1)
            layer._codebook.embed.copy_(torch.randn(1024, 128) * spread + (0 if index else latent.mean(dim=0)))
    model.name = "encodec_24khz"
    model.set_target_bandwidth(6.0)
    return model


def in_the_hubs_layout(model: EncodecModel) -> HubModel:
    """The same weights as `facebook/encodec_24khz` names them."""
    state = {}
    for name, value in model.state_dict().items():
        renamed = name
        for pattern, replacement in RENAMED:
            renamed = re.sub(pattern, replacement, renamed)
        state[renamed] = value
    hub = HubModel(EncodecConfig())
    hub.load_state_dict(state)
    return hub


@pytest.fixture(scope="module")
def model() -> EncodecModel:
    return public_model()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(model: EncodecModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    folder = tmp_path_factory.mktemp("models") / "encodec_24khz"
    in_the_hubs_layout(model).save_pretrained(folder)
    settings = CodecSettings(listen="127.0.0.1:0", metrics_listen="", models=(str(folder),), device="cpu")
    server = Server(CodecService(settings), settings)
    await server.start()
    try:
        await server.wait_ready()
        async with AsyncClient(f"127.0.0.1:{server.port}") as made:
            yield made
    finally:
        await server.drain()


@pytest.fixture(scope="module")
def audio() -> torch.Tensor:
    """A second and a bit, not a whole number of frames."""
    return torch.randn(1, 30_001, generator=torch.Generator().manual_seed(0)) * 0.1


@torch.inference_mode()
def codes_of(model: EncodecModel, audio: torch.Tensor) -> torch.Tensor:
    """[1, K, T], as the package has them."""
    return model.encode(audio[None])[0][0]


def wav_of(audio: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.numpy().T, 24_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


async def test_the_package_decodes_what_the_service_encodes(
    client: AsyncClient, model: EncodecModel, audio: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encodec.MODELS, model.name, lambda: model)
    encoded = await client.encode(wav_of(audio), bandwidth_kbps=6.0)
    assert np.mean(encoded.codes != codes_of(model, audio)[0].numpy()) < 0.002
    assert len(np.unique(encoded.codes)) > 100
    theirs, rate = encodec.decompress(EcdcFile.pack(encoded).to_bytes())
    ours = await client.decode(encoded)
    assert (rate, theirs.shape) == (24_000, audio.shape)
    np.testing.assert_allclose(ours.samples.T, theirs.numpy(), atol=1e-5)


async def test_the_service_decodes_what_the_package_encodes(
    client: AsyncClient, model: EncodecModel, audio: torch.Tensor
) -> None:
    file = encodec.compress(model, audio, use_lm=False)
    codes = codes_of(model, audio)
    found = read_ecdc(file)
    assert np.array_equal(found.codes, codes[0].numpy())
    loaded = (await client.list_models()).models[0].name
    ours = await client.decode(found, model=loaded)
    with torch.inference_mode():
        expected = model.decode([(codes, None)])[0, :, : audio.shape[1]]
    np.testing.assert_allclose(ours.samples.T, expected.numpy(), atol=1e-5)


async def test_streams_say_what_whole_calls_say(client: AsyncClient, audio: torch.Tensor) -> None:
    samples = audio[0].numpy()
    whole = await client.encode(wav_of(audio), bandwidth_kbps=6.0)
    blocks = [samples[start : start + 777] for start in range(0, len(samples), 777)]
    stream = client.stream_encode(blocks, sample_rate_hz=24_000, bandwidth_kbps=6.0)
    chunks = [chunk async for chunk in stream]
    assert len(chunks) > 1
    assert (stream.result.sample_count, stream.result.model) == (audio.shape[1], whole.model)
    assert np.mean(stream.result.codes != whole.codes) < 0.002
    expected = await client.decode(whole)
    decoded = [chunk.samples async for chunk in client.stream_decode(whole)]
    np.testing.assert_allclose(np.concatenate(decoded), expected.samples, atol=1e-5)


@pytest.mark.parametrize(
    ("encoding", "rate"), [("wav", 44_100), ("flac", 24_000), ("ogg_opus", 48_000), ("mp3", 24_000)]
)
async def test_decodes_to_files(client: AsyncClient, audio: torch.Tensor, encoding: Any, rate: int) -> None:
    encoded = await client.encode(wav_of(audio), bandwidth_kbps=6.0)
    length = audio.shape[1] * rate // 24_000
    whole = await client.decode_file(encoded, encoding=encoding, sample_rate_hz=rate, channel_count=2)
    stream = client.stream_decode(encoded, encoding=encoding, sample_rate_hz=rate, channel_count=2)
    streamed = b"".join([chunk.data async for chunk in stream])
    for data in (whole, streamed):
        samples, found = soundfile.read(io.BytesIO(data), always_2d=True)
        assert (found, samples.shape) == (rate, (length, 2))
