"""The benchmark runs; its numbers are for people."""

import pathlib
import subprocess
import sys

import pytest

from kcaps.models import pretrained

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.tensorflow


def output(program, *arguments):
    command = [sys.executable, BENCHMARKS / program, "--quick", "--repeats", "1", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.long
def test_a_quick_run_prints_its_tables():
    """It compares kcaps' layer with the textbook's before it times anything."""
    text = output("bench.py", "--routings", "l2", "--only", "layer,convolution,step,votes,memory")
    for part in ("the textbook agree to", "| textbook |", "| l2, joint |", "| l2, alternating |"):
        assert part in text
    assert text.count("\n## ") == 5 and "| stored |" in text


def test_inference_of_exported_files():
    text = output("inference.py", "--routings", "l2")
    for row in ("| convolutions |", "| l2 |", "| l2, int8 |", "| deep_capsnet, folded |"):
        assert row in text
    assert text.count("\n## ") == 5


@pytest.mark.long
def test_inference_by_one_thread():
    text = output("inference.py", "--routings", "dynamic", "--one-thread")
    assert text.count("\n## ") == 4 and "one thread, batch 64" in text
    assert text.count("| dynamic, for one image |") == 2  # among the files, and at batch 1


@pytest.mark.long
def test_growth():
    text = output("growth.py", "--routings", "dynamic,l2")
    for row in (
        "| DigitCaps | dynamic | further iterations | 1, 3, 7 |",
        "| DigitCaps | l2 | capsules out | 2, 4 |",
        "| ConvCaps2D | l2 | pixels | 9, 16 |",
    ):
        assert text.count(row) == 2
    assert text.count("\n## ") == 2 and text.count("The steepest slope is ") == 2


@pytest.mark.long
def test_parts_of_the_deep_network():
    text = output("deep_parts.py")
    assert "| QuickGELU |" in text and "| BatchNormalization of Keras |" in text


@pytest.mark.long
def test_capsule_regression():
    text = output("regression.py", "--only", "iteration,memory")
    for row in ("| two matrix products |", "| EM iteration |", "| 12,800 |"):
        assert row in text
    assert text.count("\n## ") == 2


@pytest.mark.long
def test_loss_study():
    text = output("loss_study.py")
    assert "| hidden layers | ms together |" in text and "steps on each of 3 toys" in text


@pytest.mark.long
def test_pictures_made_on_the_fly():
    assert "| multi_mnist | l2 |" in output("generators.py")


@pytest.mark.long
def test_saving():
    text = output("saving.py")
    assert "| checkpointing |" in text and "share by the processor" in text


@pytest.mark.long
def test_soak(tmp_path):
    command = [sys.executable, BENCHMARKS / "soak.py", "--minutes", "0.1", "--output"]
    result = subprocess.run([*command, tmp_path / "new"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "growth over the last half" in result.stdout
    assert (tmp_path / "new/memory.png").stat().st_size < 100_000
    again = subprocess.run([*command, tmp_path / "new"], capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.count("\n") == 1


@pytest.mark.long
def test_capsule_maps():
    """They are compared with two textbooks' before anything is timed."""
    text = output("capsule_maps.py", "--routings", "dynamic,l2")
    for part in ("the textbooks agree to", "| textbook, products |", "| l2 | 3 × 3 |"):
        assert part in text
    assert text.count("\n## ") == 3


@pytest.mark.long
@pytest.mark.skipif(
    "efficient_capsnet-mnist.npz" not in [card.path.name for card in pretrained.cards()],
    reason="there are no weights of efficient_capsnet for mnist yet",
)
def test_fine_tuning():
    command = [sys.executable, BENCHMARKS / "fine_tuning.py", "--quick", "--tasks", "digits"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for row in ("| 50 | class capsules alone |", "| 50 | all layers, from nothing |"):
        assert row in result.stdout
