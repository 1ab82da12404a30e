"""The benchmark runs, and its last line is what docs and scripts read. What it measures is not tested."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import generator

ROOT = Path(__file__).parents[2]
LOOPS = ("ours_fp32", "ours_bf16", "ours_int8", "audiocraft", "transformers_fp32", "transformers_bf16")


def measured(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench", "generator", "--shape", "tiny", "--threads", "1", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (facts["shape"], facts["device"], facts["threads"]) == ("tiny", "cpu", 1)
    assert facts["weights"] in ("embedded", "random")
    return facts


def test_whole_pieces() -> None:
    facts = measured("--streams", "1,2", "--seconds", "0.5")
    assert facts["ours"] == facts["ours_fp32"]
    for loop in LOOPS:
        assert set(facts[loop]) == {"1", "2"}
        for figures in facts[loop].values():
            assert set(figures) == {"ms_per_step", "rtf", "first_audio_seconds"}
            assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert facts["roofline"].keys() >= {"bytes_per_step", "gigabytes_per_second", "ms_per_step"}
    assert facts["chunk_ms"].keys() == {"first", "hundredth"}


def test_a_few_steps() -> None:
    facts = measured("--streams", "1", "--quick", "--loops", "ours_fp32,audiocraft,transformers_fp32")
    assert facts["quick"]
    for loop in ("ours_fp32", "audiocraft", "transformers_fp32"):
        assert facts[loop]["1"]["ms_per_step"] > 0
    assert "ours_int8" not in facts


def test_wrong_streams_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    generator.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--streams", "1,0"])
    assert "must be numbers above 0" in capsys.readouterr().err


def test_the_codec_reports_every_implementation() -> None:
    command = [sys.executable, "-m", "tests.bench", "codec", "--quick", "--threads", "1", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["model"], facts["threads"], facts["quick"]) == ("encodec_24khz", 1, True)
    for figures in (facts, facts["threads_2"]):
        for name in ("ours", "ours_streaming", "encodec", "audiocraft", "transformers"):
            assert set(figures[name]) == {"encode_rtf", "decode_rtf"}
            assert all(math.isfinite(value) and value > 0 for value in figures[name].values())
    assert set(facts["frame_latency_milliseconds"]) == {"encode", "decode"}
    assert math.isfinite(facts["hour_rss_growth_megabytes"])


def test_the_edge_is_measured_beside_the_services_own_socket() -> None:
    command = [sys.executable, "-m", "tests.bench", "edge", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    for key in ("added_ms_median", "added_ms_p99", "throughput_loss"):
        assert math.isfinite(facts[key])
    for key in ("latency_ms_median", "latency_ms_p99", "audio_seconds_per_second", "wire_megabytes_per_second"):
        assert facts[key]["direct"] > 0 and facts[key]["edge"] > 0
