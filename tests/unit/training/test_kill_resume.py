from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "kill_resume.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, which this system cannot")
def test_killed_runs_resume_to_the_same_bits(tmp_path):
    output = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--instants", "3", "--saves", "3", "--output", output],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    for kind in ("instants", "saves"):
        assert (result[kind]["kills"], result[kind]["identical"]) == (3, 3)
