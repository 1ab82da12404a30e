"""The recipes, from audio on the disk to a folder that loads by name: a few steps of each, stopped and resumed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from services.generator.engine import GeneratorEngine
from services.generator.requests import GenerationRequest
from services.models.checkpoint import CODEC_FILE
from services.models.conditions import Prompt
from services.models.loader import load_codec, load_generator
from services.models.sampling import Sampling
from services.models.tiny import checkpoints, encode, text_encoder, train_codec, train_decoder, train_lm
from services.models.tiny.corpus import Music, Sounds, split
from services.models.tiny.sounds import SAMPLE_RATE_HZ, Sound

CLIPS, SECONDS = 30, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``render_sounds`` writes it, with short tones in place of sounds."""
    folder = tmp_path_factory.mktemp("data")
    time = np.arange(SECONDS * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    waves = [np.sin(2 * np.pi * (150 + 20 * i) * time) * np.exp(-2 * (time % 0.5)) for i in range(CLIPS)]
    np.save(folder / "audio.npy", (np.stack(waves) * 20_000).astype(np.int16))
    lines = [json.dumps(asdict(Sound.draw(2 * i))) for i in range(CLIPS)]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def codec(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_codec, "UNQUANTISED_STEPS", 2)
        train_codec.Trainer(data, folder, "cpu", "sound").train(10.0, steps=3)
        resumed = train_codec.Trainer(data, folder, "cpu", "sound")
        assert resumed.step == 3
        resumed.train(10.0, steps=4)
    return folder


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_codec_is_trained_and_loads(codec: Path) -> None:
    assert [line["step"] for line in lines(codec / "codec.log")] == [3, 4]
    loaded = load_codec(str(codec))
    assert (loaded.info.sample_rate_hz, loaded.info.frame_rate_hz, loaded.info.codebook_count) == (16_000, 50.0, 4)
    # Codebooks that k-means has started: entries that differ, not the zeros of an untrained one.
    book = loaded.model.quantizer.vq.layers[0]._codebook.embed
    assert len(torch.unique(book, dim=0)) > 100


def test_a_codec_takes_over_what_fits_of_another(data: Path, codec: Path, tmp_path: Path) -> None:
    other = checkpoints.build_codec(checkpoints.CODEC_CONFIG)
    checkpoints.save(tmp_path / CODEC_FILE, checkpoints.CODEC_CONFIG, other.state_dict())
    trainer = train_codec.Trainer(data, tmp_path / "new", "cpu", "sound", tmp_path)
    own, theirs = trainer.model.state_dict(), other.state_dict()
    taken = [name for name, tensor in own.items() if torch.equal(tensor, theirs[name])]
    assert 0.8 * len(own) < len(taken) < len(own)


def test_sounds_are_encoded_decoded_and_learned(data: Path, codec: Path, tmp_path: Path) -> None:
    loaded = load_codec(str(codec))
    path = encode.encode_all(loaded, data)
    codes = np.load(path)
    audio = np.load(data / "audio.npy")
    assert codes.shape == (CLIPS, 4, SECONDS * 50) and codes.min() >= 0
    with torch.inference_mode():
        offline = loaded.model.encode(torch.from_numpy(audio[:2]).float()[:, None] / 32768.0)[0]
        expected = loaded.model.decode(offline)[:, 0]
    assert (offline.numpy() == codes[:2]).mean() > 0.99
    assert torch.allclose(encode.decoder(loaded)(offline.numpy().astype(np.int16)), expected, atol=1e-4)
    folder = tmp_path / "lm"
    corpus = Sounds(data)
    text_encoder.build(folder / "text_encoder", d_model=32, words=["rain", "wind"], lines=["rain and wind"] * 200)

    def trainer() -> train_lm.Trainer:
        return train_lm.Trainer(corpus, codec, folder, "cpu", 200, checkpoints.SOUND_LM_CONFIG, 1e-3)

    trainer().train(10.0, steps=2)
    resumed = trainer()
    assert resumed.step == 2
    resumed.train(10.0, steps=3)
    assert resumed.ready[0].min() == split(CLIPS) == 3
    assert [line["step"] for line in lines(folder / "lm.log")] == [2, 3]
    (folder / CODEC_FILE).write_bytes((codec / CODEC_FILE).read_bytes())
    model = load_generator(str(folder))
    assert (model.info.kind, model.info.window_frames) == ("sound", 500)
    engine = GeneratorEngine(model)
    sequence = engine.begin(GenerationRequest(model.info.name, (Prompt("rain"),), 10, Sampling(seed=1)))
    made = [engine.step([sequence])[0].audio for _ in range(engine.step_count(10))]
    assert torch.cat(made, dim=1).shape == (1, 3200)


def test_the_loss_is_that_of_audiocraft(data: Path, codec: Path, tmp_path: Path) -> None:
    from audiocraft.modules.conditioners import ConditioningAttributes

    encode.encode_all(load_codec(str(codec)), data)
    text_encoder.build(tmp_path / "text_encoder", d_model=32, words=["rain"], lines=["rain"] * 200)
    trainer = train_lm.Trainer(Sounds(data), codec, tmp_path, "cpu", 200, checkpoints.SOUND_LM_CONFIG, 1e-3)
    trainer.ready = [np.arange(3, CLIPS)]
    trainer.model.eval()
    codes, _, beats = trainer.batch(1)
    assert not any(beats)
    texts = ["rain"] * len(codes)
    with torch.inference_mode():
        own = trainer.losses(codes, texts)
        attributes = [ConditioningAttributes(text={"description": text}) for text in texts]
        output = trainer.model.compute_predictions(codes, attributes)
    for book in range(4):
        mask = output.mask[:, book]
        expected = torch.nn.functional.cross_entropy(output.logits[:, book][mask], codes[:, book][mask])
        assert float(own[book]) == pytest.approx(float(expected), rel=2e-2)  # bfloat16 beside float32


def test_a_decoder_is_sharpened_and_the_codes_stay(data: Path, codec: Path, tmp_path: Path) -> None:
    encode.encode_all(load_codec(str(codec)), data)
    train_decoder.Trainer(codec, data, tmp_path, "cpu").train(10.0, steps=1)
    resumed = train_decoder.Trainer(codec, data, tmp_path, "cpu")
    assert resumed.step == 1
    resumed.train(10.0, steps=2)
    before, after = (load_codec(str(folder)).model for folder in (codec, tmp_path))
    wave = torch.from_numpy(np.load(data / "audio.npy")[:1]).float()[None] / 32768.0
    with torch.inference_mode():
        codes = before.encode(wave)[0]
        assert torch.equal(codes, after.encode(wave)[0])
        assert not torch.equal(before.decode(codes), after.decode(codes))


def test_crops_of_music_begin_at_bars(tmp_path: Path) -> None:
    from services.models.tiny.compose import Piece

    piece = next(piece for piece in map(Piece.draw, range(100)) if piece.tempo_bpm == 125)
    (tmp_path / "captions.jsonl").write_text(json.dumps(asdict(piece)) + "\n")
    np.save(tmp_path / "codes.npy", np.zeros((1, 4, 1000), dtype=np.int16))
    corpus = Music(tmp_path)
    assert corpus.starts(0, 250) == [0, 96, 192, 288, 384, 480, 576, 672]
    assert corpus.starts(0, 1000) == [0]
    assert "125" in " ".join(corpus.caption(0, seed) for seed in range(20))
