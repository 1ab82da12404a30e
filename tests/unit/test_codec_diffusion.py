"""MultiBandDiffusion from a small checkpoint in AudioCraft's layout, against AudioCraft itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from audiocraft.models.encodec import InterleaveStereoCompressionModel
from audiocraft.models.loaders import load_diffusion_models
from audiocraft.models.multibanddiffusion import DiffusionProcess, MultiBandDiffusion
from audiocraft.modules.diffusion_schedule import NoiseSchedule

from services.models.checkpoint import CheckpointError
from services.models.diffusion import Diffusion, Stopped, load_diffusions
from tests import codec_models
from tests.codec_models import save_diffusion


@pytest.fixture(scope="module")
def codec() -> Any:
    torch.set_num_threads(1)
    return codec_models.seanet_codec("encodec_24khz")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("mbd") / "mbd_comp_4.pt")


def theirs(path: Path, codec: Any, codes: torch.Tensor, seed: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What AudioCraft makes of the same file."""
    load = torch.load
    monkeypatch.setattr("torch.load", lambda *args, **kwargs: load(*args, **{**kwargs, "weights_only": False}))
    models, processors, configs = load_diffusion_models(str(path), filename=path.name)
    processes = [
        DiffusionProcess(model, NoiseSchedule(**config.schedule, sample_processor=processor, device="cpu"))
        for model, processor, config in zip(models, processors, configs, strict=True)
    ]
    torch.manual_seed(seed)
    with torch.no_grad():
        return torch.as_tensor(MultiBandDiffusion(processes, codec).tokens_to_wav(codes[None])[0])


def test_it_is_the_reference_result(checkpoint: Path, codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (diffusion,) = load_diffusions(str(checkpoint.parent), codec, "cpu")
    assert diffusion.codebook_count == 4
    codes = torch.randint(0, 512, (4, 8), generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first = diffusion.decode(codes, 7, threading.Event())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(diffusion.decode(codes, 7, threading.Event()), first)
    assert not torch.equal(diffusion.decode(codes, 8, threading.Event()), first)
    assert first.isfinite().all()
    assert first.shape == (1, 8 * 320)
    expected = theirs(checkpoint, codec, codes, 7, monkeypatch)
    assert torch.allclose(first, expected, atol=1e-5)


def test_who_has_gone_stops_it(checkpoint: Path, codec: Any) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Stopped):
        Diffusion(checkpoint, codec, "cpu").decode(torch.zeros(4, 8, dtype=torch.long), 0, stopped)


class Touch:
    """Runs code when it is unpickled: it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_no_code_in_a_file_runs(tmp_path: Path, codec: Any) -> None:
    torch.save({"sample_rate": 24_000, "n_bands": 0, "x": Touch(tmp_path / "made")}, tmp_path / "mbd_x.th")
    with pytest.raises(CheckpointError, match="refused"):
        load_diffusions(str(tmp_path), codec, "cpu")
    assert not (tmp_path / "made").exists()


def test_what_does_not_fit_is_named(tmp_path: Path, codec: Any) -> None:
    path = save_diffusion(tmp_path / "mbd_musicgen_32khz.th")
    assert load_diffusions(str(tmp_path), codec, "cpu")[0].codebook_count == 0
    with pytest.raises(CheckpointError, match="is for 24000 Hz, its codec is for 32000"):
        Diffusion(path, codec_models.seanet_codec("embedded"), "cpu")
    torch.save({"sample_rate": 24_000, "n_bands": 1}, path)
    with pytest.raises(CheckpointError, match="not a MultiBandDiffusion checkpoint"):
        Diffusion(path, codec, "cpu")


def hub_of(tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay files out as the hub's client keeps them, and shut the network out."""
    repository = tmp_path / "models--facebook--multiband-diffusion"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    for file in files:
        save_diffusion(snapshot / file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_the_hub_has_them_for_metas_codecs(tmp_path: Path, codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are those of AudioCraft's own loader."""
    hub_of(tmp_path, ["mbd_comp_2.pt", "mbd_comp_4.pt", "mbd_comp_8.pt"], monkeypatch)
    found = load_diffusions("facebook/encodec_24khz", codec, "cpu")
    assert [diffusion.codebook_count for diffusion in found] == [2, 4, 8]
    assert load_diffusions("facebook/audiogen-medium", codec, "cpu") == []
    assert load_diffusions("tiny", codec, "cpu") == []


def test_the_mono_music_models_have_one(tmp_path: Path, codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(tmp_path, ["mbd_musicgen_32khz.th"], monkeypatch)
    for name in ("facebook/musicgen-small", "facebook/encodec_32khz"):
        assert [each.codebook_count for each in load_diffusions(name, codec, "cpu")] == [0]
    stereo = InterleaveStereoCompressionModel(codec)
    assert load_diffusions("facebook/musicgen-stereo-small", stereo, "cpu") == []


def test_without_the_hub_the_codec_serves_alone(
    tmp_path: Path, codec: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub_of(tmp_path, [], monkeypatch)
    assert load_diffusions("facebook/encodec_24khz", codec, "cpu") == []
    assert "can't be fetched" in caplog.text
