"""The analyzer's training recipe: splits, augmentation, decoders, a short training, calibration and figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from services.analyzer import evaluate
from services.analyzer.recipe import augment, calibrate, decoders, heldout, networks, pairs, segments, sources, train
from services.analyzer.recipe import variants as trained_variants
from services.analyzer.recipe.architectures import VARIANTS, round_latent
from services.models import calibration as cards

_RATE = 24_000


def _tone(hertz: float, seconds: float = 2.0, level: float = 0.3) -> torch.Tensor:
    return level * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * _RATE)) / _RATE)


def _peak_hertz(audio: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(audio * torch.hann_window(audio.shape[0])).abs()
    return float(spectrum.argmax()) * _RATE / audio.shape[0]


def test_a_recording_belongs_to_one_split_and_short_files_are_chained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.Source("words", "speech", "CC0-1.0")
    monkeypatch.setattr(sources, "SOURCES", (source,))
    monkeypatch.setattr(sources, "RENDERS", tmp_path / "renders.npy")
    np.save(tmp_path / "renders.npy", np.zeros((200, 8), np.int16))
    folder = tmp_path / "words" / "usr"
    folder.mkdir(parents=True)
    for index in range(60):
        soundfile.write(folder / f"{index:02d}.wav", np.zeros(3 * 8000), 8000)
    (folder / "broken.wav").write_bytes(b"no audio")

    found = sources.recordings(tmp_path)

    words = [recording for recording in found if recording.source == "words"]
    assert [len(recording.files) for recording in words] == [5] * 12
    assert len({path for recording in words for path in recording.files}) == 60
    assert sources.recordings(tmp_path) == found
    renders = [recording for recording in found if recording.kind == "render"]
    assert {recording.split for recording in renders[-100:]} == {"test"}
    assert {recording.split for recording in renders[:-100]} == {"training", "calibration"}
    monkeypatch.setattr(sources, "SOURCES", (dataclasses.replace(source, foreign=True),))
    assert {recording.split for recording in sources.recordings(tmp_path) if recording.source == "words"} == {"foreign"}


def test_parts_do_not_overlap_and_are_not_silent() -> None:
    rate = sources.RATE_HZ
    audio = torch.arange(12 * rate).float() / (12 * rate) * 0.5 + 0.1
    audio[4 * rate : 8 * rate] = 0

    parts = list(segments.cut(audio, 2.0, 9, np.random.default_rng(0)))

    assert len(parts) == 4
    values = torch.cat(parts)
    assert torch.unique(values).numel() == values.numel()


@pytest.mark.parametrize("semitones", [-2, -1, 1, 2])
def test_pitch_moves_by_semitones_and_the_length_stays(semitones: int) -> None:
    audio = _tone(1000.0)
    shifted = augment.pitched(audio, semitones)
    assert shifted.shape == audio.shape
    assert _peak_hertz(shifted) == pytest.approx(1000 * 2 ** (semitones / 12), rel=0.003)
    assert _peak_hertz(augment.sped(audio, semitones)) == pytest.approx(1000 * 2 ** (semitones / 12), rel=0.003)


@pytest.mark.parametrize("codec", ["mp3", "aac", "opus"])
def test_lossy_codecs_keep_the_music_and_the_length(codec: augment.LossyCodec) -> None:
    audio = _tone(440.0) + _tone(1234.0, level=0.1)
    coded = augment.lossy(audio, codec, 64_000, 48_000)
    assert coded.shape == audio.shape
    # The coder's delay is left in: magnitudes are compared, not samples.
    ours, theirs = (torch.fft.rfft(wave[12_000:36_000]).abs() for wave in (audio, coded))
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) > 0.99
    assert not torch.equal(coded, audio)


def test_noise_has_the_ratio_asked_for_and_an_equaliser_its_gains() -> None:
    audio = _tone(1000.0)
    added = augment.noise(audio, 20.0, seed=1) - audio
    assert 20 * np.log10(float(audio.norm() / added.norm())) == pytest.approx(20.0, abs=0.01)
    quieter = augment.equalised(audio, [-6.0] * 7)
    torch.testing.assert_close(quieter, audio * 10 ** (-6 / 20), atol=1e-5, rtol=0)
    assert augment.resampled(_tone(10_000.0), 16_000).square().mean() < 1e-4 * audio.square().mean()


def test_both_halves_of_a_pair_get_the_same_change() -> None:
    for seed in range(12):
        _, change = augment.draw(np.random.default_rng(seed))
        audio = torch.randn(_RATE, generator=torch.Generator().manual_seed(seed)) * 0.1
        torch.testing.assert_close(change(audio), change(audio.clone()))
        assert change(audio).shape == audio.shape


def test_every_variant_gives_audio_of_the_length_it_got() -> None:
    audio = torch.randn(1, 1, 3_840) * 0.1
    for variant in VARIANTS.values():
        with torch.inference_mode():
            output = trained_variants.reconstruct(trained_variants.build(variant).eval(), audio, levels=8)
        assert output.shape == audio.shape
        assert bool(output.isfinite().all())


def test_rounding_leaves_so_many_values_and_lets_gradients_through() -> None:
    latents = torch.linspace(-3, 3, 101, requires_grad=True)
    rounded = round_latent(latents, 4)
    assert torch.unique(rounded.detach()).tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1], abs=1e-6)
    torch.autograd.backward(rounded.sum())
    torch.testing.assert_close(latents.grad, 1 - latents.detach().tanh().square())


def test_a_variant_trains_and_is_kept_in_both_states(tmp_path: Path) -> None:
    audio = segments.to_pcm(torch.stack([_tone(220.0 * 2 ** (n / 12)) for n in range(8)]))
    variant = VARIANTS["seanet-128"]
    trained_variants.train(variant, audio, 1.0, tmp_path)
    early, final = (trained_variants.load(variant.name, state, tmp_path) for state in ("early", "final"))
    assert any(not torch.equal(a, b) for a, b in zip(early.parameters(), final.parameters(), strict=True))
    assert json.loads((tmp_path / "seanet-128.json").read_text())["steps"] > 0
    with pytest.raises(FileNotFoundError):
        trained_variants.load("dac-256", "final", tmp_path)


def test_the_decoder_of_the_test_is_none_of_training() -> None:
    assert [sum(shares.values()) for shares in decoders.SHARES.values()] == pytest.approx([1.0, 1.0, 1.0])
    known = {name.partition(".")[0] for shares in decoders.SHARES.values() for name in shares}
    assert decoders.UNSEEN.partition(".")[0] not in known
    drawn = {decoders.draw(np.random.default_rng(seed)).partition(".")[0] for seed in range(200)}
    assert drawn == known - {"sound-encodec"}
    assert decoders.draw(np.random.default_rng(0), "sound").partition(".")[0] == "sound-encodec"
    with pytest.raises(KeyError):
        decoders.decode("unknown.1", np.zeros(8, np.int16), np.zeros(8, np.int16), np.random.default_rng(0))


def test_griffin_lim_keeps_the_length_and_the_pitch() -> None:
    audio = segments.to_pcm(_tone(1000.0))
    output = decoders.decode("griffin-lim.128", audio, audio, np.random.default_rng(0))
    assert output.shape == audio.shape
    assert _peak_hertz(torch.from_numpy(output.astype(np.float32))) == pytest.approx(1000, rel=0.02)


def _shards(folder: Path) -> None:
    """Write pairs that are easy to tell apart: tones, and the same under a hiss."""
    random = np.random.default_rng(0)
    shard = np.zeros((16, 2, 2, 30_000), np.int16)
    for pair in shard:
        tone = _tone(float(random.uniform(200, 2000)), 1.25).numpy()
        hiss = random.standard_normal(30_000) * 0.05
        pair[0], pair[1] = tone * 32767, (tone + hiss) * 32767
    folder.mkdir()
    np.save(folder / "000.npy", shard)


def test_training_learns_goes_on_where_it_stopped_and_saves_what_it_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _shards(tmp_path / "pairs")
    monkeypatch.setattr(train, "_PAIRS_A_BATCH", 4)
    monkeypatch.setattr(train, "_CROP", 6_000)
    (tmp_path / "run").mkdir()
    run = train.Training("mpd", tmp_path / "run", tmp_path / "pairs")
    run.find_shards()
    losses = [run.update(2e-3).mean() for _ in range(30)]
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    run.save()

    again = train.Training("mpd", tmp_path / "run", tmp_path / "pairs")

    assert again.step == 30
    torch.testing.assert_close(again.network.state_dict(), run.network.state_dict())
    train.train(["msd", "msstftd"], 0.01, tmp_path / "run", tmp_path / "pairs")
    lines = [json.loads(line) for line in (tmp_path / "run" / "training.log").read_text().splitlines()]
    assert [line["family"] for line in lines] == ["msd", "msstftd"]
    average = train.trained(tmp_path / "run")
    networks.save(tmp_path, average)
    loaded = networks.load(tmp_path, networks.SHAPES)
    audio = torch.randn(2, 1, _RATE) * 0.1
    with torch.inference_mode():
        torch.testing.assert_close(
            networks.mean_logits(loaded, audio), networks.mean_logits(average, audio), atol=5e-3, rtol=5e-3
        )
    assert len(networks.feature_names(loaded)) == 11
    with pytest.raises(FileNotFoundError, match=r"recipe\.pairs"):
        train.train(["mpd"], 1, tmp_path / "run", tmp_path / "none")


def test_features_are_the_means_of_audiocrafts_logits() -> None:
    torch.manual_seed(1)
    built = networks.build(networks.SHAPES).eval()
    audio = (np.random.default_rng(0).standard_normal((1, _RATE + 100)) * 3000).astype(np.int16)
    scores = networks.score_windows(built, audio)
    assert scores.shape == (1, 1, 11)
    with torch.inference_mode():
        logits, _ = built["msd"](torch.from_numpy(audio[:, None, :_RATE] / np.float32(32768)))
    assert scores[0, 0, 5:8] == pytest.approx([float(logit.mean()) for logit in logits], abs=1e-6)


def _features(shift: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw ``[count, 10, 2]``: the windows of a file share half of the variance."""
    shared, own = random.standard_normal((count, 1, 2)), random.standard_normal((count, 10, 2))
    values: np.ndarray = shift + (shared + own) / np.sqrt(2)
    return values


def test_the_calibration_tells_probabilities_and_knows_how_much_more_ten_windows_say() -> None:
    random = np.random.default_rng(0)
    real, generated = _features(1.0, 3000, random), _features(-1.0, 3000, random)
    fitted = calibrate.fit(("mpd.0", "msd.0"), real, generated)
    fresh = _features(1.0, 3000, random), _features(-1.0, 3000, random)
    windows = [calibrate.window_log_odds(fitted, features) for features in fresh]
    files = [calibrate.file_log_odds(fitted, rows) for rows in windows]
    assert 0.5 < fitted.file_gain < 2.0  # one by construction: as much of its own as shared
    for left, right in (windows, files):
        told = np.array([cards.probability(value) for value in np.concatenate([left.ravel(), right.ravel()])])
        labels = np.repeat([0, 1], [left.size, right.size])
        for low in (0.1, 0.3, 0.5, 0.7):
            inside = (told >= low) & (told < low + 0.2)
            assert labels[inside].mean() == pytest.approx(told[inside].mean(), abs=0.06)
    assert fitted.window_log_odds(fresh[0][0, 0].tolist()) == pytest.approx(windows[0][0, 0])
    thresholds = calibrate.choose(fitted, real, generated)
    high = np.log(thresholds.generated / (1 - thresholds.generated))
    assert (windows[0] >= high).mean() < 0.01
    assert (files[0] >= high).mean() < 0.01


def test_equal_error_rate_of_two_bells() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(0, 1, 40_000), random.normal(2, 1, 40_000)])
    assert evaluate.equal_error_rate(np.repeat([0, 1], 40_000), scores) == pytest.approx(0.1587, abs=0.005)
    assert evaluate.equal_error_rate(np.array([0, 0, 1, 1]), np.array([0.0, 1.0, 2.0, 3.0])) == 0
    assert evaluate.equal_error_rate(np.array([0, 1]), np.array([1.0, 0.0])) == 1


def test_a_shard_depends_on_its_number_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = torch.stack([_tone(200.0 + 50 * n, 1.0) for n in range(3)])
    np.save(tmp_path / "24.npy", segments.to_pcm(audio))
    monkeypatch.setattr(segments, "load", lambda split, rate_hz=_RATE: np.load(tmp_path / "24.npy"))
    monkeypatch.setattr(decoders, "SHARES", {"codec": {"griffin-lim.80": 1.0}})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pairs.build_shard(0, tmp_path / name)
    first, second = np.load(tmp_path / "a" / "000.npy"), np.load(tmp_path / "b" / "000.npy")
    assert first.shape == (3, 2, 2, _RATE)
    np.testing.assert_array_equal(first, second)
    lines = [json.loads(line) for line in (tmp_path / "a" / "000.jsonl").read_text().splitlines()]
    assert sorted(line["segment"] for line in lines) == [0, 1, 2]
    assert not (first[:, 0] == first[:, 1]).all(axis=(1, 2)).any()
    level = (first[:, :, 0].astype(float) ** 2).mean(axis=2) ** 0.5
    np.testing.assert_allclose(level[:, 1], level[:, 0], rtol=0.01)


def test_the_evaluation_names_the_command_that_makes_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"services\.analyzer\.recipe\.heldout"):
        heldout.load("test", "clean.real", tmp_path)
    monkeypatch.setattr(heldout, "load", lambda *_: (_ for _ in ()).throw(FileNotFoundError("run this first")))
    monkeypatch.setattr("sys.argv", ["evaluate"])
    assert evaluate.main() == 1
    assert "run this first" in capsys.readouterr().err
