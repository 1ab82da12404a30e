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


HUB = {
    "encodec_24khz": EncodecConfig(),
    "encodec_48khz": EncodecConfig(
        target_bandwidths=[3.0, 6.0, 12.0, 24.0],
        sampling_rate=48_000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        use_causal_conv=False,
        norm_type="time_group_norm",
    ),
}


def public_model(name: str) -> EncodecModel:
    """One of the package's models in its true shapes, with weights by chance."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: EncodecModel = getattr(EncodecModel, name.replace("_", "_model_"))(pretrained=False)
        # Untrained, the encoder says almost the same of all audio: the first codebook is a sample of that.
        with torch.no_grad():
            latent = model.encoder(torch.randn(1, model.channels, 48_000) * (1 if model.normalize else 0.1))[0].T
        for index, layer in enumerate(model.quantizer.vq.layers):
            spread = latent.std(dim=0) * 0.8**index
            layer._codebook.inited.fill_(1)
            layer._codebook.embed.copy_(torch.randn(1024, 128) * spread + (0 if index else latent.mean(dim=0)))
    model.name = name
    model.set_target_bandwidth(6.0)
    return model


def in_the_hubs_layout(model: EncodecModel) -> HubModel:
    """The same weights as `facebook/encodec_24khz` and `facebook/encodec_48khz` name them."""
    state = {}
    for name, value in model.state_dict().items():
        renamed = name
        for pattern, replacement in RENAMED:
            renamed = re.sub(pattern, replacement, renamed)
        state[renamed] = value
    hub = HubModel(HUB[model.name])
    hub.load_state_dict(state)
    return hub


@pytest.fixture(scope="module", params=list(HUB))
def model(request: pytest.FixtureRequest) -> EncodecModel:
    return public_model(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(model: EncodecModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    folder = tmp_path_factory.mktemp("models") / model.name
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
def audio(model: EncodecModel) -> torch.Tensor:
    """More than a second, not a whole number of frames."""
    length = model.sample_rate * 5 // 4 + 1
    return torch.randn(model.channels, length, generator=torch.Generator().manual_seed(0)) * 0.1


@torch.inference_mode()
def codes_of(model: EncodecModel, audio: torch.Tensor) -> torch.Tensor:
    """[K, T] of all segments, as the package has them."""
    return torch.cat([codes[0] for codes, _ in model.encode(audio[None])], dim=1)


@torch.inference_mode()
def check_codes(given: torch.Tensor, model: EncodecModel, audio: torch.Tensor) -> None:
    """Hold codes to the package's: a frame may differ from a codebook on whose two nearest entries are equally near."""
    expected = codes_of(model, audio)
    assert given.shape == expected.shape
    differing = (given != expected).any(dim=0).nonzero().flatten().tolist()
    assert len(differing) <= 0.02 * given.shape[1]
    if model.normalize:
        assert not differing, "no tie is known; a segment's loudness would have to be taken out first"
    latent = model.encoder(audio[None])[0].T if differing else torch.empty(0)
    for frame in differing:
        first = int((given[:, frame] != expected[:, frame]).nonzero()[0])
        rest = latent[frame].double()
        for layer, code in zip(model.quantizer.vq.layers, expected[:first, frame], strict=False):
            rest = rest - layer._codebook.embed[code].double()
        distances = (rest - model.quantizer.vq.layers[first]._codebook.embed.double()).pow(2).sum(dim=1)
        mine, theirs = distances[given[first, frame]], distances[expected[first, frame]]
        assert abs(mine - theirs) < 1e-4 * theirs, f"frame {frame}, codebook {first}: no tie"


def wav_of(audio: torch.Tensor, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.numpy().T, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


async def test_the_package_decodes_what_the_service_encodes(
    client: AsyncClient, model: EncodecModel, audio: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encodec.MODELS, model.name, lambda: model)
    encoded = await client.encode(wav_of(audio, model.sample_rate), bandwidth_kbps=6.0)
    check_codes(torch.from_numpy(encoded.codes).long(), model, audio)
    assert len(np.unique(encoded.codes)) > 100
    theirs, rate = encodec.decompress(EcdcFile.pack(encoded).to_bytes())
    ours = await client.decode(encoded)
    assert (rate, theirs.shape) == (model.sample_rate, audio.shape)
    np.testing.assert_allclose(ours.samples.T, theirs.numpy(), atol=1e-5)


async def test_the_service_decodes_what_the_package_encodes(
    client: AsyncClient, model: EncodecModel, audio: torch.Tensor
) -> None:
    file = encodec.compress(model, audio, use_lm=False)
    codes = codes_of(model, audio)
    found = read_ecdc(file)
    assert np.array_equal(found.codes, codes.numpy())
    loaded = (await client.list_models()).models[0].name
    ours = await client.decode(found, model=loaded)
    with torch.inference_mode():
        expected = model.decode(model.encode(audio[None]))[0, :, : audio.shape[1]]
    np.testing.assert_allclose(ours.samples.T, expected.numpy(), atol=1e-5)


async def test_streams_say_what_whole_calls_say(client: AsyncClient, model: EncodecModel, audio: torch.Tensor) -> None:
    samples = audio.T.numpy()
    whole = await client.encode(wav_of(audio, model.sample_rate), bandwidth_kbps=6.0)
    blocks = [samples[start : start + 777] for start in range(0, len(samples), 777)]
    stream = client.stream_encode(
        blocks, sample_rate_hz=model.sample_rate, channel_count=model.channels, bandwidth_kbps=6.0
    )
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
async def test_decodes_to_files(
    client: AsyncClient, model: EncodecModel, audio: torch.Tensor, encoding: Any, rate: int
) -> None:
    encoded = await client.encode(wav_of(audio, model.sample_rate), bandwidth_kbps=6.0)
    length = audio.shape[1] * rate // model.sample_rate
    whole = await client.decode_file(encoded, encoding=encoding, sample_rate_hz=rate, channel_count=2)
    stream = client.stream_decode(encoded, encoding=encoding, sample_rate_hz=rate, channel_count=2)
    streamed = b"".join([chunk.data async for chunk in stream])
    for data in (whole, streamed):
        samples, found = soundfile.read(io.BytesIO(data), always_2d=True)
        assert (found, samples.shape) == (rate, (length, 2))
