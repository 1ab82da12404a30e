"""The local overlay's real images, played by podman: the end-to-end tests of the local stack, asked of its pods.

`make kube-play` runs it, and no other target: it needs the images of `make images`, which take minutes to build.
"""

# ruff: noqa: F401

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile

import antiphon
from services.stack.demo import record
from services.stack.errors import NotReadyError
from services.stack.ports import SERVICES, Ports
from services.stack.stack import Stack
from tests.conftest import require
from tests.integration import calls
from tests.integration.test_foreign_clients import test_grpcurl, test_k6
from tests.integration.test_rest import (
    song,
    test_analyze_takes_raw_audio,
    test_audio_comes_while_the_rest_is_not_made,
    test_curl_streams_and_uploads,
    test_encode_takes_raw_audio_and_decode_gives_it_back,
    test_every_documented_path_answers,
    test_health_tells_what_every_service_has,
    test_models_of_every_service_are_listed,
    test_music_is_the_piece_that_grpc_gives,
    test_the_document_and_the_page_are_served,
    test_the_format_is_the_callers_choice,
    test_what_is_wrong_gets_a_json_error,
)
from tests.integration.test_stack import (
    test_a_client_that_disconnects_frees_its_slot,
    test_every_service_is_healthy_through_envoy,
    test_grpcurl_lists_the_default_model,
    test_reflection_lists_and_describes_each_service,
)
from tests.kubernetes import pods, render


def podman(*arguments: str) -> str:
    """What it prints; raises AssertionError with what it says when it fails."""
    done = subprocess.run([require("podman"), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The pods, where a stack of processes would listen."""
    documents = pods.pods(render.overlay("local"))
    file = tmp_path_factory.mktemp("pods") / "local.yaml"
    file.write_text(pods.text("local"))
    try:
        podman("kube", "play", str(file))
        played = Stack(ports=Ports())
        try:
            played.wait_ready()
        except NotReadyError as error:
            logs = [podman("pod", "logs", each["metadata"]["name"]) for each in documents if each["kind"] == "Pod"]
            raise AssertionError("\n".join(logs)) from error
        yield played
    finally:
        podman("kube", "down", str(file))
        podman("volume", "rm", *pods.volumes(documents))


def test_ten_seconds_of_music_are_streamed(stack: Stack, tmp_path: Path) -> None:
    take = record(stack.address, "a happy piano melody", duration=10, seed=7, path=tmp_path / "piece.wav")
    samples, rate = soundfile.read(tmp_path / "piece.wav", always_2d=True)
    assert len(samples) == len(take.samples) == 10 * rate
    assert take.first_audio_seconds < take.total_seconds / 2
    assert np.sqrt(np.mean(samples**2)) > 0.01


def test_a_piece_is_encoded_decoded_and_analyzed(stack: Stack, tmp_path: Path) -> None:
    with antiphon.Client(stack.address) as client:
        piece = client.generate("drums", duration=2, seed=1)
        soundfile.write(tmp_path / "piece.wav", piece.samples, piece.sample_rate_hz)
        encoded = client.encode(tmp_path / "piece.wav")
        decoded = client.decode(encoded)
        assert decoded.samples.shape == piece.samples.shape
        assert client.analyze(tmp_path / "piece.wav").windows


@pytest.mark.parametrize("name", SERVICES)
def test_a_pod_tells_its_version(stack: Stack, name: str) -> None:
    page = calls.get(stack.addresses[f"{name} metrics"])
    assert f'antiphon_build_info{{service="{name}",version="{version("antiphon")}"}} 1.0' in page
