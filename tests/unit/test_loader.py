"""Loading AudioCraft's checkpoints: what fits loads, what does not is named, and no code in a file ever runs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from services.models import fetch
from services.models.checkpoint import CheckpointError, UnknownModel
from services.models.loader import load_codec, load_generator
from services.models.tiny import text_encoder
from services.models.tiny.checkpoints import CODEC_CONFIG, LM_CONFIG, build_codec, build_lm, save

LM, CODEC = "state_dict.bin", "compression_state_dict.bin"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in AudioCraft's own layout, its text encoder beside it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    text_encoder.build(folder / "text")
    lm = build_lm(folder / "text")
    save(folder / LM, LM_CONFIG % {"text_encoder": "text"}, lm.state_dict())
    save(folder / CODEC, CODEC_CONFIG, build_codec().state_dict())
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(exported, tmp_path / "checkpoint")


def transformers_encodec() -> Any:
    config = EncodecConfig(
        sampling_rate=32000,
        num_filters=8,
        hidden_size=32,
        codebook_dim=32,
        codebook_size=512,
        target_bandwidths=[1.8],
        upsampling_ratios=[8, 5, 4, 4],
        use_causal_conv=False,
    )
    return EncodecModel(config)


class Touch:
    """Runs code when it is unpickled: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_an_export_loads_as_it_was_saved(exported: Path) -> None:
    loaded = load_generator(str(exported))
    assert not loaded.lm.training
    assert not loaded.codec.training
    for model, file in ((loaded.lm, LM), (loaded.codec, CODEC)):
        saved = torch.load(exported / file, weights_only=True)["best_state"]
        state = model.state_dict()
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[key], saved[key]) for key in saved)


def test_the_facts_of_a_generator(exported: Path) -> None:
    loaded = load_generator(str(exported))
    info = loaded.info
    assert (info.name, info.kind, info.device, info.precision) == (str(exported), "music", "cpu", "fp32")
    assert (info.sample_rate_hz, info.channel_count, info.frame_rate_hz) == (32000, 1, 50.0)
    assert (info.codebook_count, info.codebook_size, info.max_duration_seconds) == (4, 512, 20.0)
    counted = sum(p.numel() for model in (loaded.lm, loaded.codec) for p in model.parameters())
    assert info.parameter_count == counted
    both = (exported / LM).read_bytes() + (exported / CODEC).read_bytes()
    assert info.digest == hashlib.sha256(both).hexdigest()


def test_the_facts_of_a_codec(exported: Path) -> None:
    info = load_codec(str(exported)).info
    assert (info.kind, info.max_duration_seconds, info.codebook_count) == ("codec", 0.0, 4)
    assert info.digest == hashlib.sha256((exported / CODEC).read_bytes()).hexdigest()


def test_a_sound_model_says_so(folder: Path) -> None:
    package = torch.load(folder / LM, weights_only=True)
    save(folder / LM, package["xp.cfg"] + "solver: audiogen\n", package["best_state"])
    assert load_generator(str(folder)).info.kind == "sound"


@pytest.mark.parametrize("name", ["encodec", "./encodec"])
def test_a_pretrained_codec_beside_the_checkpoint_loads(folder: Path, name: str) -> None:
    model = transformers_encodec()
    model.save_pretrained(folder / "encodec")
    torch.save({"pretrained": name}, folder / CODEC)
    loaded = load_generator(str(folder))
    codes = torch.randint(0, 512, (1, 4, 10), generator=torch.Generator().manual_seed(0))
    codec = load_codec(str(folder))
    assert codec.info.sample_rate_hz == 32000
    with torch.no_grad():
        expected = model.eval().decode(codes[None], [None])[0]
        assert torch.equal(loaded.codec.decode(codes), expected)
        assert torch.equal(codec.model.decode(codes), expected)


def test_a_transformers_folder_is_a_codec(tmp_path: Path) -> None:
    model = transformers_encodec()
    model.save_pretrained(tmp_path)
    info = load_codec(str(tmp_path)).info
    assert (info.kind, info.sample_rate_hz, info.frame_rate_hz) == ("codec", 32000, 50.0)
    assert info.digest == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_a_transformers_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    transformers_encodec().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no EnCodec in safetensors"):
        load_codec(str(tmp_path))


@pytest.mark.parametrize("file", [LM, CODEC])
def test_code_in_a_file_is_refused_and_not_run(folder: Path, file: str) -> None:
    package = torch.load(folder / file, weights_only=True)
    torch.save({**package, "extra": Touch(folder / "ran")}, folder / file)
    with pytest.raises(CheckpointError, match=f"{re.escape(file)}: .*could run code"):
        load_generator(str(folder))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("file", [LM, CODEC])
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_a_truncated_file_is_named(folder: Path, file: str, size: int) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=f"{re.escape(file)}: "):
        load_generator(str(folder))


def test_a_file_of_something_else_is_named(folder: Path) -> None:
    (folder / LM).write_text("not a checkpoint at all\n" * 100)
    with pytest.raises(CheckpointError, match=re.escape(LM)):
        load_generator(str(folder))


@pytest.mark.parametrize("file", [LM, CODEC])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=f"no {re.escape(file)} in the folder"):
        load_generator(str(folder))


@pytest.mark.parametrize("file", [LM, CODEC])
@pytest.mark.parametrize("key", ["xp.cfg", "best_state"])
def test_missing_parts_are_named(folder: Path, file: str, key: str) -> None:
    package = torch.load(folder / file, weights_only=True)
    del package[key]
    torch.save(package, folder / file)
    with pytest.raises(CheckpointError, match=f"{re.escape(file)}: .*not an AudioCraft export"):
        load_generator(str(folder))


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)])
def test_a_file_that_is_no_mapping_is_refused(folder: Path, content: Any) -> None:
    torch.save(content, folder / LM)
    with pytest.raises(CheckpointError, match=f"{re.escape(LM)}: holds a {type(content).__name__}"):
        load_generator(str(folder))


@pytest.mark.parametrize("file", [LM, CODEC])
def test_missing_weights_are_named(folder: Path, file: str) -> None:
    package = torch.load(folder / file, weights_only=True)
    lost = next(iter(package["best_state"]))
    del package["best_state"][lost]
    torch.save(package, folder / file)
    with pytest.raises(CheckpointError, match=f"(?s){re.escape(file)}: does not fit .*{re.escape(lost)}"):
        load_generator(str(folder))


@pytest.mark.parametrize("config", ["a: [", "- a\n- b\n", "just words"])
def test_a_configuration_that_is_no_mapping_is_refused(folder: Path, config: str) -> None:
    package = torch.load(folder / LM, weights_only=True)
    torch.save({**package, "xp.cfg": config}, folder / LM)
    with pytest.raises(CheckpointError, match=re.escape(LM)):
        load_generator(str(folder))


def test_a_text_encoder_that_is_not_there_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "text")
    with pytest.raises(CheckpointError, match="text encoder 'text'"):
        load_generator(str(folder))


@pytest.mark.parametrize(
    "name", ["", "nothing", "tinyy", "a/b/c", "../up", "../../etc/passwd", "/no/such/folder", "./here", "~/home"]
)
@pytest.mark.parametrize("load", [load_generator, load_codec])
def test_a_name_of_nothing_is_unknown(name: str, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModel):
        load(name)


def test_a_hub_id_that_can_not_be_fetched_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownModel, match="nobody/nothing: can't be fetched"):
        load_generator("nobody/nothing")


@pytest.mark.parametrize("service", ["generator", "codec"])
def test_models_are_fetched_and_checked_ahead_of_a_service(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main([service, "tiny, nobody/nothing"]) == 1
    told = capsys.readouterr()
    assert told.out == "tiny: ready\n" and "nobody/nothing: " in told.err
    assert fetch.main([service, "tiny"]) == 0
