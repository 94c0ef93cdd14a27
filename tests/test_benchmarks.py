"""The benchmark runs; its numbers are for people."""

import pathlib
import subprocess
import sys

import pytest

BENCH = pathlib.Path(__file__).parents[1] / "benchmarks" / "bench.py"


@pytest.mark.tensorflow
def test_a_quick_run_prints_its_tables():
    """It compares kcaps' layer with the textbook's before it times anything."""
    arguments = ("--quick", "--repeats", "1", "--routings", "l2", "--only", "layer,step,memory")
    command = [sys.executable, str(BENCH), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for text in ("the textbook agree to", "| textbook |", "| l2, joint |", "| l2, alternating |"):
        assert text in result.stdout
    assert result.stdout.count("\n## ") == 3
