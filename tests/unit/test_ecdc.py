"""`.ecdc` files, against the public `encodec` package: theirs read ours, ours read theirs, code for code."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encodec.model import EncodecModel

from antiphon.ecdc import EcdcFile, read_ecdc, write_ecdc
from antiphon.results import EncodedAudio

# As an attribute of the package, its function of the same name is in the way of the module.
encodec: Any = importlib.import_module("encodec.compress")

# Lengths whose frames `encodec` counts one too high when it reads are 21, 42 and 51 frames.
LENGTHS = {"encodec_24khz": [1, 21 * 320, 5000, 51 * 320, 24_000], "encodec_48khz": [700, 6720, 48_000, 96_001]}
FACTS = {"encodec_24khz": (24_000, 1), "encodec_48khz": (48_000, 2)}


@pytest.fixture(scope="module")
def public() -> dict[str, EncodecModel]:
    """The package's two models, with weights by chance and each with the right name."""
    models = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, build in (
            ("encodec_24khz", EncodecModel.encodec_model_24khz),
            ("encodec_48khz", EncodecModel.encodec_model_48khz),
        ):
            model = build(pretrained=False)
            model.name = name
            for layer in model.quantizer.vq.layers:
                layer._codebook.inited.fill_(1)
                layer._codebook.embed.normal_(0, 0.3)
            model.set_target_bandwidth(6.0)
            models[name] = model
    return models


def noise(channels: int, length: int) -> torch.Tensor:
    return torch.randn(channels, length, generator=torch.Generator().manual_seed(length)) * 0.2


def by_encodec(model: EncodecModel, audio: torch.Tensor) -> EncodedAudio:
    """What a server returns for the same weights: the segments' codes joined, with a loudness a frame."""
    with torch.no_grad():
        frames = model.encode(audio[None])
    codes = torch.cat([codes[0] for codes, _ in frames], dim=1).numpy().astype(np.int32)
    scales = [float(scale) for codes, scale in frames if scale is not None for _ in range(codes.shape[2])]
    name, (rate, channels) = model.name, FACTS[model.name]
    return EncodedAudio(codes, 10, f"facebook/{name}", audio.shape[1], rate, channels, 6.0, tuple(scales))


@pytest.mark.parametrize("name", list(FACTS))
def test_encodec_reads_ours(
    public: dict[str, EncodecModel], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = public[name]
    monkeypatch.setitem(encodec.MODELS, name, lambda: model)
    read: list[Any] = []
    longer: list[bool] = []
    decode = model.decode

    def noted(frames: Any) -> Any:
        read.append(frames)
        return decode(frames)

    monkeypatch.setattr(model, "decode", noted)
    for length in LENGTHS[name]:
        audio = noise(FACTS[name][1], length)
        encoded = by_encodec(model, audio)
        path = tmp_path / "ours.ecdc"
        assert write_ecdc(path, encoded) == path.stat().st_size
        samples, rate = encodec.decompress(path.read_bytes())
        assert rate == FACTS[name][0]
        with torch.no_grad():
            sent = model.encode(audio[None])
            expected = decode(sent)[0, :, :length]
        for (codes, scale), (original, loudness) in zip(read[-1], sent, strict=True):
            assert torch.equal(codes[:, :, : original.shape[2]], original)
            assert scale == loudness
        assert samples.shape == expected.shape
        # Where there is a frame more, only for `encodec` to read, a model that is not causal hears it.
        longer.append(read[-1][-1][0].shape != sent[-1][0].shape)
        assert longer[-1] or torch.allclose(samples, expected, atol=1e-5)
    assert set(longer) == {True, False}


@pytest.mark.parametrize("name", list(FACTS))
def test_ours_reads_theirs(public: dict[str, EncodecModel], name: str) -> None:
    for length in LENGTHS[name]:
        audio = noise(FACTS[name][1], length)
        theirs = encodec.compress(public[name], audio, use_lm=False)
        expected = by_encodec(public[name], audio)
        found = read_ecdc(theirs)
        assert np.array_equal(found.codes, expected.codes)
        assert found.scales == expected.scales
        facts = ("model", "sample_count", "sample_rate_hz", "channel_count", "bits_per_code", "bandwidth_kbps")
        assert [getattr(found, fact) for fact in facts] == [getattr(expected, fact) for fact in facts]


def piece(**changes: Any) -> EncodedAudio:
    codes = np.random.default_rng(0).integers(0, 1024, (8, 75), np.int32)
    facts = {"bits_per_code": 10, "model": "facebook/encodec_24khz", "sample_count": 24_000, "scales": ()}
    rates = {"sample_rate_hz": 24_000, "channel_count": 1, "bandwidth_kbps": 6.0}
    return EncodedAudio(**{"codes": codes, **facts, **rates, **changes})


def test_a_second_of_6_kbps_takes_750_bytes() -> None:
    assert len(EcdcFile.pack(piece()).payload) == 750


def test_other_models_come_back_as_they_were() -> None:
    codes = np.random.default_rng(1).integers(0, 400, (3, 51), np.int32)
    tiny = piece(
        codes=codes,
        bits_per_code=9,
        model="tiny",
        sample_rate_hz=16_000,
        channel_count=2,
        sample_count=51 * 320 - 7,
        bandwidth_kbps=9 * 3 * 50 / 1000,
    )
    file = io.BytesIO()
    size = write_ecdc(file, tiny)
    found = read_ecdc(io.BytesIO(file.getvalue()))
    assert size == len(file.getvalue())
    assert np.array_equal(found.codes, codes)
    assert (found.model, found.sample_count, found.bits_per_code) == ("tiny", tiny.sample_count, 9)
    assert (found.sample_rate_hz, found.channel_count, found.scales) == (16_000, 2, ())
    assert found.bandwidth_kbps == pytest.approx(tiny.bandwidth_kbps)


def test_the_weights_of_encodec_in_a_folder_bear_its_name_and_come_back_with_ours() -> None:
    file = EcdcFile.read(EcdcFile.pack(piece(model="/models/encodec_24khz/")).to_bytes())
    assert (file.model, file.unpack().model) == ("encodec_24khz", "/models/encodec_24khz/")
    other = piece(model="encodec_24khz", sample_rate_hz=16_000, sample_count=50 * 320, codes=piece().codes[:, :50])
    found = read_ecdc(EcdcFile.pack(dataclasses.replace(other, bandwidth_kbps=4.0)).to_bytes())
    assert (found.model, found.sample_rate_hz, found.codes.shape) == ("encodec_24khz", 16_000, (8, 50))


def test_a_model_of_the_48_khz_form_keeps_its_loudnesses() -> None:
    frames = 150 + 3
    codes = np.ones((4, frames), np.int32)
    scales = (0.25,) * 150 + (0.5,) * 3
    own = {"sample_rate_hz": 48_000, "channel_count": 2, "sample_count": 47_520 + 900, "bandwidth_kbps": 6.0}
    found = read_ecdc(EcdcFile.pack(piece(codes=codes, scales=scales, model="mine", **own)).to_bytes())
    assert (found.model, found.scales) == ("mine", scales)
    assert np.array_equal(found.codes, codes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sample_count": 24_001}, "do not fit"),
        ({"sample_count": 23_680}, "do not fit"),
        ({"model": "x", "bandwidth_kbps": 0.0}, "bandwidth_kbps"),
        ({"model": "x", "scales": (1.0,) * 75}, "scales"),
        ({"model": "encodec_48khz", "sample_rate_hz": 48_000, "channel_count": 2, "scales": (1.0,)}, "scales"),
    ],
)
def test_refuses_codes_that_do_not_fit(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EcdcFile.pack(piece(**changes))


def with_header(meta: object, payload: bytes = b"") -> bytes:
    dumped = json.dumps(meta).encode()
    return struct.pack("!4sBI", b"ECDC", 0, len(dumped)) + dumped + payload


GOOD = {"m": "encodec_24khz", "al": 24_000, "nc": 8, "lm": False}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an .ecdc"),
        (b"RIFF" + bytes(40), "not an .ecdc"),
        (b"ECDC\x01" + bytes(10), "version 1"),
        (b"ECDC\x00\xff\xff\xff\xff", "truncated"),
        (b"ECDC\x00\x00\x00\x00\x03{}", "truncated"),
        (b"ECDC\x00\x00\x00\x00\x02\xff\xff", "not JSON"),
        (struct.pack("!4sBI", b"ECDC", 0, 200_000) + b"[" * 200_000, "not JSON"),
        (with_header([]), "missing"),
        (with_header({**GOOD, "lm": 1}), "missing"),
        (with_header({**GOOD, "al": True}), '"al"'),
        (with_header({**GOOD, "al": 0}), '"al"'),
        (with_header({**GOOD, "al": 1 << 60}), '"al"'),
        (with_header({**GOOD, "nc": -1}), '"nc"'),
        (with_header({**GOOD, "m": "other"}), "sample_rate_hz"),
        (with_header({**GOOD, "m": "other", "antiphon": 3}), "not known"),
        (with_header(GOOD, bytes(749)), "truncated"),
        (with_header(GOOD, bytes(751)), "too long"),
        (with_header({**GOOD, "al": 1 << 39, "m": "encodec_48khz"}, bytes(99)), "truncated"),
        (with_header({**GOOD, "lm": True}, bytes(10)), "entropy-coded"),
    ],
)
def test_refuses_damaged_files(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_ecdc(data)


def test_damage_raises_nothing_else() -> None:
    chance = random.Random(0)
    whole = EcdcFile.pack(piece(model="mine")).to_bytes()
    for _ in range(500):
        data = bytearray(whole[: chance.randint(0, len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randint(0, 4)):
            if data:
                data[chance.randrange(min(len(data), 300))] = chance.randrange(256)
        try:
            read_ecdc(bytes(data))
        except ValueError:
            continue
