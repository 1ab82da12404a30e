"""The benchmark runs, and its last line is what docs and scripts read. What it measures is not tested."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import generator

ROOT = Path(__file__).parents[2]


def test_last_line_is_json() -> None:
    arguments = ["--shape", "tiny", "--quick", "--streams", "1,2", "--seconds", "0.1", "--threads", "1"]
    command = [sys.executable, "-m", "tests.bench", "generator", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["shape"], facts["device"], facts["threads"], facts["quick"]) == ("tiny", "cpu", 1, True)
    assert facts["weights"] in ("embedded", "random")
    assert facts["ours"] == facts["ours_fp32"]
    for loop in ("ours_fp32", "audiocraft"):
        assert set(facts[loop]) == {"1", "2"}
        for figures in facts[loop].values():
            assert set(figures) == {"ms_per_step", "rtf", "first_audio_seconds"}
            assert all(math.isfinite(value) and value > 0 for value in figures.values())


def test_wrong_streams_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    generator.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--streams", "1,0"])
    assert "must be numbers above 0" in capsys.readouterr().err
