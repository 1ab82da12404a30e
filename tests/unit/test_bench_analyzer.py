"""The analyzer's benchmark runs, and its last line is what docs and scripts read. What it measures is not tested."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_analyzer_is_timed_beside_audiocraft() -> None:
    command = [sys.executable, "-m", "tests.bench", "analyzer", "--quick", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--weights", "untrained"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["model"], facts["threads"], facts["quick"]) == ("untrained", 1, True)
    for name in ("ours", "ours_pytorch", "audiocraft"):
        assert set(facts[name]) == {"rtf"}
        assert math.isfinite(facts[name]["rtf"])
        assert facts[name]["rtf"] > 0
    assert facts["largest_score_difference"] < 1e-5
    assert math.isfinite(facts["hour_rss_growth_megabytes"])
