"""Typed arguments to requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import antiphon
from antiphon import InvalidArgumentError, analysis, operations
from antiphon.connection import Connection
from antiphon.messages import generation_request
from antiphon.results import Service
from antiphon.v1 import audio_pb2, codec_pb2, generator_pb2


def test_defaults_leave_the_choice_to_the_server() -> None:
    config = generation_request("slow sad piano").config
    assert [p.text for p in config.prompts] == ["slow sad piano"]
    assert config.duration.ToSeconds() == 10
    assert config.output_format.encoding == audio_pb2.AUDIO_ENCODING_PCM_F32LE
    assert not config.HasField("seed")
    assert not config.prompts[0].HasField("weight")
    assert not config.sampling.ListFields()


def test_every_argument_has_its_field() -> None:
    config = generation_request(
        ["bells", ("tiefe Flöte", 0.25)],
        model="tiny",
        duration=2.5,
        temperature=0.5,
        top_k=0,
        top_p=0.75,
        cfg_coef=0.0,
        use_sampling=False,
        seed=2**64 - 1,
        include_codes=True,
        encoding="pcm_s16le",
    ).config
    assert [(p.text, p.weight if p.HasField("weight") else None) for p in config.prompts] == [
        ("bells", None),
        ("tiefe Flöte", 0.25),
    ]
    assert config.duration.ToMilliseconds() == 2500
    sampling = config.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.cfg_coef) == (0.5, 0, 0.75, 0)
    assert all(sampling.HasField(name) for name in ("top_k", "cfg_coef", "use_sampling"))
    assert (config.model, config.seed, config.include_codes) == ("tiny", 2**64 - 1, True)
    assert config.output_format.encoding == audio_pb2.AUDIO_ENCODING_PCM_S16LE


def test_an_audio_prompt_goes_beside_its_use(tmp_path: Path) -> None:
    uses = generator_pb2.PromptAudioUse
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    request = generation_request("x", continue_from=tmp_path / "a.flac", extend_stride=1.5, two_step_cfg=True)
    assert (request.prompt_audio, request.config.prompt_audio.use) == (b"fLaC", uses.PROMPT_AUDIO_USE_CONTINUATION)
    assert (request.config.extend_stride.ToMilliseconds(), request.config.two_step_cfg) == (1500, True)
    request = generation_request("x", melody=b"RIFF")
    assert (request.prompt_audio, request.config.prompt_audio.use) == (b"RIFF", uses.PROMPT_AUDIO_USE_MELODY)
    assert not generation_request("x").config.HasField("prompt_audio")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"melody": b"a", "continue_from": b"b"}, "melody"),
        ({"extend_stride": float("nan")}, "extend_stride"),
        ({"duration": float("nan")}, "duration"),
        ({"duration": float("inf")}, "duration"),
        ({"duration": 1e300}, "duration"),
        ({"seed": -1}, "seed"),
        ({"top_k": 2**40}, "sampling.top_k"),
        ({"temperature": "hot"}, "sampling.temperature"),
        ({"encoding": "mp4"}, "output_format.encoding"),
        ({"prompt": "\udcff"}, "prompts[0].text"),
        ({"prompt": ["a", ("b", "much")]}, "prompts[1].weight"),
    ],
)
def test_what_the_wire_can_not_carry_is_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        generation_request(**{"prompt": "x"} | arguments)
    assert [v.field for v in caught.value.violations] == [field]
    assert caught.value.request_id == ""


def test_files_are_given_as_bytes_or_by_path(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    for audio in (b"RIFF", path, str(path)):
        request = operations.encode(audio, {}).request
        assert isinstance(request, codec_pb2.EncodeRequest)
        assert request.audio.data == b"RIFF"
    with pytest.raises(FileNotFoundError):
        analysis.analyze(tmp_path / "none.wav")


def test_codes_that_do_not_fit_their_codebook_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="codes"):
        operations.decode(np.array([[1024]]), {})


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Connection.resolve().target == "localhost:8080"
    monkeypatch.setenv("ANTIPHON_TARGET", "music.example:443")
    monkeypatch.setenv("ANTIPHON_API_KEY", "secret\n")
    connection = Connection.resolve()
    assert connection.target == "music.example:443"
    assert ("authorization", "Bearer secret") in connection.metadata("id")
    assert "secret" not in repr(connection)
    assert Connection.resolve("other:1", api_key="").metadata("id") == (("x-request-id", "id"),)


def test_metadata_names_the_service_for_the_edge() -> None:
    assert ("x-antiphon-service", "codec") in Connection.resolve().metadata("id", Service.CODEC)


@pytest.mark.parametrize("key", ["ключ", "two\nlines"])
def test_keys_that_no_header_can_hold(key: str) -> None:
    with pytest.raises(ValueError, match="api_key"):
        Connection.resolve(api_key=key)


def test_certificates_turn_tls_on() -> None:
    assert Connection.resolve().credentials is None
    assert Connection.resolve(tls=True).credentials is not None
    assert Connection.resolve(root_certificates=b"PEM").credentials is not None


def test_unknown_options_are_a_type_error() -> None:
    with antiphon.Client("127.0.0.1:1") as client, pytest.raises(TypeError, match="tempo"):
        client.generate("x", tempo=3)  # type: ignore[call-arg]
