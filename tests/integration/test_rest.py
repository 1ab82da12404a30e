"""REST through the real Envoy, with the embedded models behind it."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from antiphon.v1 import audio_pb2, generator_pb2, generator_pb2_grpc
from services.edge.openapi import AUDIO, EXAMPLES
from services.stack import edge
from services.stack.ports import SERVICES
from services.stack.stack import Stack
from tests.conftest import require
from tests.integration import calls, plain_service, web

SONG = {"text": "slow sad piano", "duration": 1, "seed": 7}
SEED_DEFAULTS = {"duration": 10.0, "temperature": 1.0, "top_k": 250, "top_p": 0.0, "cfg_coef": 3.0}


def metric(stack: Stack, service: str, line: str) -> float:
    """The sum of a service's metrics whose line begins so."""
    text = calls.get(stack.addresses[f"{service} metrics"])
    return sum(float(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.startswith(line))


@pytest.fixture(scope="module")
def song(stack: Stack) -> bytes:
    """A piece as WAV."""
    reply = web.call(stack, "POST", "/generate/music", SONG)
    assert reply.status == 200, reply
    return reply.body


def test_music_is_the_piece_that_grpc_gives(stack: Stack, song: bytes) -> None:
    config = generator_pb2.GenerationConfig(seed=SONG["seed"])  # type: ignore[arg-type]
    config.prompts.add(text=str(SONG["text"]))
    config.duration.FromSeconds(1)
    config.output_format.encoding = audio_pb2.AUDIO_ENCODING_WAV
    with calls.connected(stack) as channel:
        stub = generator_pb2_grpc.GeneratorServiceStub(channel)
        assert song == stub.Generate(generator_pb2.GenerateRequest(config=config), timeout=120).audio
    samples, rate = soundfile.read(io.BytesIO(song))
    assert len(samples) == rate


def test_the_headers_say_what_it_is(stack: Stack) -> None:
    reply = web.call(stack, "POST", "/generate/music", SONG, {"x-request-id": "mine-1"})
    assert reply.headers["content-type"] == "audio/wav"
    assert reply.headers["x-request-id"] == "mine-1"


def test_the_defaults_are_those_of_the_seed(stack: Stack) -> None:
    """Ten seconds by the header, and the same first second as with every default written out."""
    heads = []
    for given in ({}, SEED_DEFAULTS):
        with web.opened(stack, "POST", "/generate/music", {"text": "drums", "seed": 3, **given}) as reply:
            heads.append(reply.read(64_044))
    assert heads[0] == heads[1]
    assert len(heads[0]) == 64_044
    rate, channels = int.from_bytes(heads[0][24:28], "little"), int.from_bytes(heads[0][22:24], "little")
    assert int.from_bytes(heads[0][40:44], "little") == 10 * rate * channels * 2


def test_audio_comes_while_the_rest_is_not_made(stack: Stack) -> None:
    """Nobody reads on, so a piece of ten minutes can't be finished: what came, came before its end."""
    done = 'grpc_server_handled_total{grpc_code="OK",grpc_method="GenerateFile"'
    before = metric(stack, "generator", done)
    with web.opened(stack, "POST", "/generate/music", {**SONG, "duration": 600}) as reply:
        first = reply.read(44 + 2 * 3200)
        assert np.frombuffer(first[44:], "<i2").any()
        assert metric(stack, "generator", "antiphon_slots_active") >= 1
        assert metric(stack, "generator", done) == before


@pytest.mark.parametrize(
    ("name", "media", "container"),
    [("wav", AUDIO[0], "WAV"), ("flac", AUDIO[1], "FLAC"), ("ogg", AUDIO[2], "OGG"), ("mp3", AUDIO[3], "MP3")],
)
def test_the_format_is_the_callers_choice(stack: Stack, song: bytes, name: str, media: str, container: str) -> None:
    reply = web.call(stack, "POST", "/generate/music", {**SONG, "format": name})
    assert (reply.status, reply.headers["content-type"]) == (200, media)
    info = soundfile.info(io.BytesIO(reply.body))
    assert info.format == container
    assert info.duration == pytest.approx(1.0, abs=0.05)
    if name == "flac":
        lossless, _ = soundfile.read(io.BytesIO(reply.body), dtype="int16")
        assert np.array_equal(lossless, soundfile.read(io.BytesIO(song), dtype="int16")[0])


WRONG: list[tuple[str, str, Any, int, int]] = [
    ("GET", "/nothing/here", None, 404, 5),
    ("GET", "/generate/music", None, 404, 5),
    ("POST", "/generate/video", SONG, 404, 5),
    ("POST", "/generate/music", b"{", 400, 3),
    ("POST", "/generate/music", {**SONG, "duration": "long"}, 400, 3),
    ("POST", "/generate/music", {**SONG, "kind": "audio"}, 400, 3),
    ("POST", "/generate/music", {**SONG, "model": "none"}, 404, 5),
    ("POST", "/encode?bandwith_kbps=1", b"RIFF", 400, 3),
    ("POST", "/encode", b"not audio", 400, 3),
    ("POST", "/analyze", b"", 400, 3),
    ("POST", "/decode", {}, 400, 3),
]


@pytest.mark.parametrize(("verb", "path", "body", "status", "code"), WRONG)
def test_what_is_wrong_gets_a_json_error(stack: Stack, verb: str, path: str, body: Any, status: int, code: int) -> None:
    reply = web.call(stack, verb, path, body, {"x-request-id": "wrong-1"})
    assert (reply.status, reply.json["code"]) == (status, code), reply
    assert reply.json["message"]
    (request,) = [one for one in reply.json["details"] if one["@type"].endswith("google.rpc.RequestInfo")]
    assert request["request_id"] == "wrong-1"


def test_every_field_that_is_wrong_is_named(stack: Stack) -> None:
    wrong = {"text": "x" * 1001, "duration": -1, "temperature": 0, "top_k": -1, "top_p": 2, "cfg_coef": 21}
    reply = web.call(stack, "POST", "/generate/music", wrong)
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert web.violations(reply).keys() == wrong.keys()
    for field, value in (("format", "aiff"), ("model", "none")):
        assert web.violations(web.call(stack, "POST", "/generate/music", {**SONG, field: value})).keys() == {field}


def test_encode_takes_raw_audio_and_decode_gives_it_back(stack: Stack, song: bytes) -> None:
    encoded = web.call(stack, "POST", "/encode?include_values=true&codebook_count=2", song).json
    assert encoded["model"] == "tiny"
    assert len(encoded["values"]) == encoded["codes"]["codebook_count"] == 2
    by_values = web.call(stack, "POST", "/decode", {"values": encoded["values"]})
    by_codes = web.call(stack, "POST", "/decode", {"codes": encoded["codes"]})
    assert by_values.headers["content-type"] == "audio/wav"
    assert by_values.body == by_codes.body
    samples, rate = soundfile.read(io.BytesIO(by_codes.body))
    assert len(samples) >= rate
    flac = {"codes": encoded["codes"], "output_format": {"encoding": "AUDIO_ENCODING_FLAC"}}
    assert web.call(stack, "POST", "/decode", flac).headers["content-type"] == "audio/flac"


def test_analyze_takes_raw_audio(stack: Stack, song: bytes) -> None:
    reply = web.call(stack, "POST", "/analyze?threshold=0.4", song, {"content-type": "audio/wav"})
    assert {"mpd_score", "msd_score", "msstftd_score", "feature_maps", "windows"} <= reply.json.keys()
    assert 0 <= reply.json["mpd_score"] <= 1
    wrong = web.call(stack, "POST", "/analyze?threshold=2", song)
    assert web.violations(wrong).keys() == {"threshold"}


def test_an_upload_of_many_megabytes_gets_through(stack: Stack) -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros((48_000 * 40, 2), np.float32), 48_000, format="WAV", subtype="FLOAT")
    assert len(silence.getvalue()) > 15_000_000
    assert web.call(stack, "POST", "/encode?codebook_count=1", silence.getvalue()).status == 200


def test_health_tells_what_every_service_has(stack: Stack) -> None:
    health = web.call(stack, "GET", "/health").json
    assert health["status"] == "healthy"
    assert health["version"]
    assert health["models"][:3] == ["tiny", "tiny-sound", "tiny"]
    assert health["discriminators"] == ["mpd", "msd", "msstftd"]
    assert health["unavailable"] == []


def test_models_of_every_service_are_listed(stack: Stack) -> None:
    models = web.call(stack, "GET", "/models").json["models"]
    kinds = [model["kind"] for model in models]
    assert {"MODEL_KIND_MUSIC", "MODEL_KIND_CODEC", "MODEL_KIND_ANALYZER"} <= set(kinds)
    own = [web.call(stack, "GET", f"/v1/{name}/models").json["models"] for name in SERVICES]
    assert models == [model for each in own for model in each]


def test_health_is_degraded_where_a_service_is_missing() -> None:
    with Stack(services=["codec"], commands=plain_service.commands()) as own:
        health = web.call(own, "GET", "/health")
        assert (health.status, health.json["status"]) == (200, "degraded")
        assert health.json["unavailable"] == ["generator", "analyzer"]
        assert health.json["models"] == ["codec"]
        models = web.call(own, "GET", "/models").json
        assert [model["name"] for model in models["models"]] == ["codec"]
        assert models["unavailable"] == ["generator", "analyzer"]
        gone = web.call(own, "POST", "/generate/music", SONG)
        assert (gone.status, gone.json["code"]) == (503, 14)


def test_the_document_and_the_page_are_served(stack: Stack) -> None:
    document = web.call(stack, "GET", "/openapi.json")
    assert document.body == (edge.REST / "openapi.json").read_bytes()
    assert document.json["openapi"].startswith("3.")
    for path, media in (("/docs", "text/html"), ("/docs.js", "text/javascript"), ("/docs.css", "text/css")):
        reply = web.call(stack, "GET", path)
        assert reply.status == 200
        assert reply.headers["content-type"].startswith(media)
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert b"//" not in reply.body.replace(b"\n// ", b"\n").replace(b"// ", b""), f"{path} asks elsewhere"


def test_every_documented_path_answers(stack: Stack, song: bytes) -> None:
    """With the document's own examples; what takes audio gets a piece."""
    document = web.call(stack, "GET", "/openapi.json").json
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            body: Any = None
            if "requestBody" in operation:
                json_body = operation["requestBody"]["content"].get("application/json")
                body = song if json_body is None else json_body.get("example")
            if path == "/generate/audio":
                body = {**body, "model": "tiny"}
            if path == "/v1/decode":
                body = {"codes": web.call(stack, "POST", "/encode", song).json["codes"]}
            reply = web.call(stack, verb.upper(), path, body)
            assert reply.status == 200, (path, reply)
            assert reply.headers["content-type"] in operation["responses"]["200"]["content"], path


def test_curl_streams_and_uploads(stack: Stack, tmp_path: Path) -> None:
    def curl(*arguments: str) -> bytes:
        command = [require("curl"), "-sS", "-N", "--noproxy", "*", "--fail-with-body", *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout

    url = f"http://{stack.address}"
    piece = tmp_path / "piece.wav"
    for kind in ("music", "audio"):
        request = {**EXAMPLES["GenerateFileRequest"], "model": "tiny"}
        piece.write_bytes(curl("-d", json.dumps(request), f"{url}/generate/{kind}"))
        assert soundfile.info(piece).duration == 3.0
    codes = json.loads(curl("--data-binary", f"@{piece}", f"{url}/encode"))["codes"]
    decoded = curl("-d", json.dumps({"codes": codes}), f"{url}/decode")
    assert soundfile.info(io.BytesIO(decoded)).duration == pytest.approx(3.0, abs=0.1)
    assert "windows" in json.loads(curl("--data-binary", f"@{piece}", f"{url}/analyze"))
    assert json.loads(curl(f"{url}/health"))["status"] == "healthy"
    assert json.loads(curl(f"{url}/models"))["models"]
