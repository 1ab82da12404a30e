"""Audio prompts, long pieces and AudioCraft's own loop over real gRPC, against AudioCraft on the same weights."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import soundfile
import torch

from antiphon.codes import unpack_codes
from antiphon.v1 import audio_pb2, generator_pb2, generator_pb2_grpc
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.models.loader import LoadedGenerator, load_generator
from services.runtime.server import Server
from tests import generator_models
from tests.integration.tiny_service import details
from tests.unit.test_generation_modes import TEXT, reference, tune

pytestmark = pytest.mark.asyncio(loop_scope="module")
KINDS = ("text", "melody", "stereo", "rope", "magnet")
Mode = generator_pb2.PromptAudioUse


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    return {kind: generator_models.build(root / kind, kind) for kind in KINDS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(folders: dict[str, Path]) -> AsyncIterator[generator_pb2_grpc.GeneratorServiceAsyncStub]:
    settings = GeneratorSettings(
        listen="127.0.0.1:0",
        metrics_listen="",
        models=tuple(map(str, folders.values())),
        max_duration_seconds=30,
        max_prompt_audio_bytes=2_000_000,
        max_prompt_audio_seconds=10,
    )
    server = Server(GeneratorService(settings), settings)
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield generator_pb2_grpc.GeneratorServiceStub(channel)
    await server.drain()


def config(model: Path, seconds: float, **fields: Any) -> Any:
    result = generator_pb2.GenerationConfig(
        model=str(model), prompts=[{"text": TEXT}], sampling={"use_sampling": False}, include_codes=True, **fields
    )
    result.duration.FromNanoseconds(round(seconds * 1e9))
    result.output_format.encoding = audio_pb2.AUDIO_ENCODING_PCM_F32LE
    return result


def pcm(audio: torch.Tensor) -> bytes:
    return np.ascontiguousarray(audio.numpy().T, "<f4").tobytes()


def messages(message: Any, *pieces: bytes, final: bool = True) -> Iterator[generator_pb2.StreamGenerateRequest]:
    yield generator_pb2.StreamGenerateRequest(config=message)
    for index, data in enumerate(pieces):
        last = final and index == len(pieces) - 1
        yield generator_pb2.StreamGenerateRequest(prompt_audio={"data": data, "is_final": last})


async def stream(stub: Any, message: Any, *pieces: bytes) -> tuple[torch.Tensor, np.ndarray, list[Any]]:
    """Return codes ``[K, T]``, samples ``[C, T]`` and all responses."""
    responses = [response async for response in stub.StreamGenerate(messages(message, *pieces))]
    codes = [unpack_codes(r.codes) for r in responses if r.WhichOneof("response") == "codes"]
    audio = b"".join(r.audio.data for r in responses if r.WhichOneof("response") == "audio")
    channels = responses[0].started.format.channel_count
    return (
        torch.from_numpy(np.concatenate(codes, axis=1)).long(),
        np.frombuffer(audio, "<f4").reshape(-1, channels).T,
        responses,
    )


def check(
    codes: torch.Tensor, samples: np.ndarray, responses: list[Any], loaded: LoadedGenerator, expected: Any
) -> None:
    assert torch.equal(codes, expected)
    with torch.no_grad():
        decoded = loaded.codec.decode(expected[None])[0].numpy()
    np.testing.assert_allclose(samples, decoded, atol=1e-4, rtol=1e-4)
    started, finished = responses[0].started, responses[-1].finished
    assert started.total_samples == samples.shape[1]
    assert started.total_steps == finished.steps
    progress = [r.progress.steps for r in responses if r.WhichOneof("response") == "progress"]
    assert progress == sorted(progress) and progress[-1] == finished.steps


async def test_models_say_what_they_can_do(stub: Any, folders: dict[str, Path]) -> None:
    models = (await stub.ListModels(generator_pb2.GeneratorServiceListModelsRequest())).models
    names = {
        model.name: {audio_pb2.GenerationMode.Name(mode).removeprefix("GENERATION_MODE_") for mode in model.modes}
        for model in models
    }
    assert names == {
        str(folders["text"]): {"CONTINUATION", "EXTENSION", "MIXING", "STEPWISE"},
        str(folders["melody"]): {"CONTINUATION", "EXTENSION", "MELODY", "STEPWISE"},
        str(folders["stereo"]): {"CONTINUATION", "EXTENSION", "MIXING", "STEPWISE"},
        str(folders["rope"]): {"CONTINUATION", "EXTENSION"},
        str(folders["magnet"]): {"CONTINUATION"},
    }
    assert [model.window.ToMilliseconds() for model in models] == [2000, 2000, 2000, 2000, 1980]
    assert [model.max_duration.ToMilliseconds() for model in models] == [30000, 30000, 30000, 30000, 1980]


@pytest.mark.parametrize("kind", ["text", "stereo", "rope"])
async def test_a_continuation_in_pieces(stub: Any, folders: dict[str, Path], kind: str) -> None:
    """At another rate, in another number of channels: converted as AudioCraft converts."""
    loaded = load_generator(str(folders[kind]))
    prompt = tune(1.0, 44_100, 2)
    model = reference(loaded, duration=5.2)
    _, expected = model.generate_continuation(prompt, 44_100, [TEXT], return_tokens=True)
    form = {"encoding": audio_pb2.AUDIO_ENCODING_PCM_F32LE, "sample_rate_hz": 44_100, "channel_count": 2}
    data = pcm(prompt)
    message = config(folders[kind], 5.2, prompt_audio={"format": form})
    codes, samples, responses = await stream(stub, message, data[:10_001], data[10_001:], b"")
    check(codes, samples, responses, loaded, expected[0])
    assert responses[0].started.config.extend_stride.ToMilliseconds() == 1200


async def test_a_whole_file_in_a_unary_call(stub: Any, folders: dict[str, Path]) -> None:
    loaded = load_generator(str(folders["text"]))
    file = io.BytesIO()
    soundfile.write(file, tune(0.8, 22_050)[0].numpy(), 22_050, format="FLAC")
    form = {"encoding": audio_pb2.AUDIO_ENCODING_FLAC}
    request = generator_pb2.GenerateRequest(
        config=config(folders["text"], 2.0, prompt_audio={"format": form}), prompt_audio=file.getvalue()
    )
    reply = await stub.Generate(request)
    file.seek(0)
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    prompt = torch.from_numpy(samples.T.copy())
    _, expected = reference(loaded, duration=2.0).generate_continuation(prompt, rate, [TEXT], return_tokens=True)
    assert torch.equal(torch.from_numpy(unpack_codes(reply.codes)).long(), expected[0])


async def test_a_melody(stub: Any, folders: dict[str, Path]) -> None:
    loaded = load_generator(str(folders["melody"]))
    melody = tune(1.5, 32_000)
    _, expected = reference(loaded, duration=2.0).generate_with_chroma([TEXT], melody, 32_000, return_tokens=True)
    audio = {"format": {"encoding": audio_pb2.AUDIO_ENCODING_PCM_F32LE}, "use": Mode.PROMPT_AUDIO_USE_MELODY}
    codes, samples, responses = await stream(stub, config(folders["melody"], 2.0, prompt_audio=audio), pcm(melody))
    check(codes, samples, responses, loaded, expected[0])


@pytest.mark.parametrize("kind", ["text", "melody", "stereo", "rope"])
async def test_longer_than_the_window(stub: Any, folders: dict[str, Path], kind: str) -> None:
    loaded = load_generator(str(folders[kind]))
    _, expected = reference(loaded, duration=4.4, extend_stride=0.6).generate([TEXT], return_tokens=True)
    message = config(folders[kind], 4.4, extend_stride={"nanos": 600_000_000})
    codes, samples, responses = await stream(stub, message)
    check(codes, samples, responses, loaded, expected[0])


async def test_magnet_with_its_own_defaults(stub: Any, folders: dict[str, Path]) -> None:
    message = config(folders["magnet"], 1.0, seed=5)
    message.ClearField("sampling")
    codes, samples, responses = await stream(stub, message)
    sampling = responses[0].started.config.sampling
    assert (sampling.temperature, sampling.top_k, round(sampling.top_p, 3), sampling.cfg_coef) == (3.0, 0, 0.9, 10.0)
    assert codes.shape == (4, 50) and samples.shape == (1, 32_000)
    again, _, _ = await stream(stub, message)
    assert torch.equal(codes, again)
    progress = [r.progress.steps for r in responses if r.WhichOneof("response") == "progress"]
    assert {10, 20, 30, 40, 50} <= set(progress)


PROMPT = {"format": {"encoding": audio_pb2.AUDIO_ENCODING_PCM_F32LE}}
SECOND = pcm(tune(1.0, 32_000))


@pytest.mark.parametrize(
    ("kind", "fields", "pieces", "final", "code", "field"),
    [
        ("text", {"prompt_audio": {"use": 2}}, [b""], True, "UNIMPLEMENTED", "config.prompt_audio.use"),
        ("text", {"prompt_audio": PROMPT}, [SECOND[:9], b""], True, "INVALID_ARGUMENT", "prompt_audio"),
        ("text", {"prompt_audio": PROMPT}, [b""], True, "INVALID_ARGUMENT", "prompt_audio"),
        ("text", {"prompt_audio": PROMPT}, [SECOND * 3], True, "INVALID_ARGUMENT", "prompt_audio"),
        ("text", {"prompt_audio": PROMPT}, [b"\xff" * 400], True, "INVALID_ARGUMENT", "prompt_audio"),
        ("text", {"prompt_audio": PROMPT}, [SECOND * 16], False, "INVALID_ARGUMENT", "prompt_audio"),
        ("text", {"prompt_audio": PROMPT}, [SECOND], False, "FAILED_PRECONDITION", "prompt_audio.is_final"),
        ("text", {"prompt_audio": {"format": {"encoding": 3}}}, [b"no"], True, "INVALID_ARGUMENT", "prompt_audio"),
        (
            "text",
            {"prompt_audio": {"format": {"sample_rate_hz": 100}}},
            [b""],
            True,
            "INVALID_ARGUMENT",
            "config.prompt_audio.format.sample_rate_hz",
        ),
        (
            "text",
            {"prompt_audio": {"format": {"channel_count": 9}}},
            [b""],
            True,
            "INVALID_ARGUMENT",
            "config.prompt_audio.format.channel_count",
        ),
        ("text", {}, [SECOND], True, "FAILED_PRECONDITION", "prompt_audio"),
        ("text", {"extend_stride": {"seconds": 2}}, [], True, "INVALID_ARGUMENT", "config.extend_stride"),
        ("text", {"extend_stride": {"seconds": 0}}, [], True, "INVALID_ARGUMENT", "config.extend_stride"),
        ("melody", {"prompts": [{"text": "another"}]}, [], True, "UNIMPLEMENTED", "config.prompts"),
        ("magnet", {"prompts": [{"text": "another"}]}, [], True, "UNIMPLEMENTED", "config.prompts"),
    ],
)
async def test_bad_input_gets_the_right_code_and_field(
    stub: Any,
    folders: dict[str, Path],
    kind: str,
    fields: dict[str, Any],
    pieces: list[bytes],
    final: bool,
    code: str,
    field: str,
) -> None:
    message = config(folders[kind], 1.96)
    message.MergeFrom(generator_pb2.GenerationConfig(**fields))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in stub.StreamGenerate(messages(message, *pieces, final=final)):
            pass
    assert error.value.code().name == code, error.value
    found = details(error.value)
    fields_told = (
        {v.field for v in found["BadRequest"].field_violations}
        if "BadRequest" in found
        else {v.subject for v in found["PreconditionFailure"].violations}
    )
    assert field in fields_told


@pytest.mark.parametrize(
    ("kind", "seconds", "use"), [("magnet", 3.0, None), ("text", 31.0, None), ("text", 0.9, 1), ("text", 1.0, 1)]
)
async def test_a_piece_too_long_or_no_longer_than_its_prompt(
    stub: Any, folders: dict[str, Path], kind: str, seconds: float, use: int | None
) -> None:
    fields = {} if use is None else {"prompt_audio": PROMPT}
    pieces = [] if use is None else [SECOND]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in stub.StreamGenerate(messages(config(folders[kind], seconds, **fields), *pieces)):
            pass
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details(error.value)["BadRequest"].field_violations
    assert violation.field == ("config.duration" if use is None else "prompt_audio")


@pytest.mark.parametrize("has_config", [True, False])
async def test_a_unary_prompt_needs_both_its_halves(stub: Any, folders: dict[str, Path], has_config: bool) -> None:
    message = config(folders["text"], 1.0, **({"prompt_audio": PROMPT} if has_config else {}))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Generate(generator_pb2.GenerateRequest(config=message, prompt_audio=b"" if has_config else SECOND))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_of_audiocrafts_own_loop_can_be_stopped(stub: Any, folders: dict[str, Path]) -> None:
    call = stub.StreamGenerate()
    await call.write(generator_pb2.StreamGenerateRequest(config=config(folders["rope"], 30.0)))
    reason: int | str | None = None
    async for response in call:
        if response.WhichOneof("response") == "progress" and response.progress.steps >= 10 and reason is None:
            stop = generator_pb2.GenerationControl.ACTION_STOP
            await call.write(generator_pb2.StreamGenerateRequest(control={"action": stop}))
            await call.done_writing()
            reason = "sent"
        if response.WhichOneof("response") == "finished":
            reason = response.finished.reason
    assert reason == generator_pb2.GenerationFinished.REASON_STOPPED
    codes, _, _ = await stream(stub, config(folders["rope"], 0.5))
    assert codes.shape == (4, 25)
