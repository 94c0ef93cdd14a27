"""The comparison with peers: all rows compute the same; what the floor counts; what is refused."""

import argparse
import subprocess
import sys

import numpy as np
import pytest

from programs import ROOT, refused

PYTHON = ROOT / ".venv-backends/bin/python"
pytestmark = pytest.mark.tensorflow


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Has tests import the modules of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.long
@pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-backends, which has PyTorch and JAX")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_quick_run_prints_its_tables(precision, tmp_path):
    """It compares poses, gradients and losses of all rows before it times anything."""
    command = [sys.executable, ROOT / "benchmarks/peers.py", "--quick", "--repeats", "1"]
    command += ["--precision", precision, "--csv", tmp_path / "peers.csv"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    text = result.stdout
    assert text.count("\n## ") == 2 and text.count("\n| floor |") == 2
    for library in ("TensorFlow", "JAX", "PyTorch"):
        assert text.count(f"\n| kcaps on {library}, ") == 3 + 5
    for peer in ("PyTorch, eager, float32", "JAX textbook, jit", "TensorFlow textbook, XLA"):
        assert text.count(f"\n| {peer} |") == 2
    assert text.count("PyTorch, torch.compile") == 2  # left out where there is no compiler
    assert text.count("autocast") == (4 if precision == "mixed_bfloat16" else 0)
    assert len((tmp_path / "peers.csv").read_text().splitlines()) >= 2 * 13 + 4


def saved(folder, name, group, *arrays):
    """Returns a row as a process tells of it."""
    np.savez(folder / f"{name}.npz", *arrays)
    return {"name": name, "group": group, "file": str(folder / f"{name}.npz")}


def test_a_row_that_computes_something_else_is_refused(tmp_path, rng, capsys):
    from peers_tables import check

    poses, gradient = rng.normal(size=(3, 4)), rng.normal(size=5)
    first = saved(tmp_path, "a", "dynamic", poses, gradient)
    other = saved(tmp_path, "b", "l1", 2 * poses, gradient)  # of another group
    near = gradient + [0, 0, 1e-5 * np.abs(gradient).max(), 0, 0]
    same = saved(tmp_path, "c", "dynamic", poses, near)
    found = check([first, other, same], 1e-4)
    assert found == {"dynamic": pytest.approx(1e-5), "l1": 0}
    far = saved(tmp_path, "d", "dynamic", poses, gradient + 1e-3 * np.abs(gradient).max())
    assert "d computes something else" in refused(capsys, lambda: check([first, far], 1e-4))
    wrong = saved(tmp_path, "e", "dynamic", poses, np.full(5, np.nan))
    assert "e computes something else" in refused(capsys, lambda: check([first, wrong], 1e-4))


def test_the_floor_counts_what_xla_counts():
    import jax
    import jax.numpy as jnp
    from peers_tables import operations

    args = argparse.Namespace(batch_size=3, filters=8, types=2, num_inputs=72)

    def votes(inputs, kernel):
        return jnp.einsum("bik,ikjd->bijd", inputs, kernel)

    def network(weights, images):
        first, second, kernel = weights
        layout = ("NHWC", "HWIO", "NHWC")
        features = jax.lax.conv_general_dilated(
            images, first, (1, 1), "VALID", dimension_numbers=layout
        )
        features = jax.lax.conv_general_dilated(
            features, second, (2, 2), "VALID", dimension_numbers=layout
        )
        return votes(features.reshape(3, 72, 8), kernel)

    def counted(function, *shapes):
        def both(inputs, upstream):
            values, backward = jax.vjp(function, *inputs)
            return values, backward(upstream)

        inputs = [jax.tree.map(jnp.ones, shape, is_leaf=is_shape) for shape in shapes]
        lowered = jax.jit(both).lower(inputs, jnp.ones((3, 72, 10, 16)))
        return lowered.cost_analysis()["flops"]

    def is_shape(x):
        return isinstance(x, tuple)

    kernel = (72, 8, 10, 16)
    assert operations(args, "layer") == pytest.approx(counted(votes, (3, 72, 8), kernel), rel=1e-3)
    weights = [(9, 9, 1, 8), (9, 9, 8, 16), kernel]

    def trained(weights):
        return network(weights, jnp.ones((3, 28, 28, 1)))

    assert operations(args, "step") == pytest.approx(counted(trained, weights), rel=1e-3)


def test_every_repeat_runs_every_row_but_the_slow_ones():
    from peers_tables import interleaved

    asked = []

    class Owner:
        def ask(self, row, options):
            asked.append((row, options["warm_up"]))
            return {"seconds": 2.0}

    owner, args = Owner(), argparse.Namespace(repeats=3, calls=1)
    seconds = interleaved({"a": owner, "b": owner}, {"a": 0.1, "b": 100.0}, args)
    assert sorted(asked) == [("a", True)] * 3 + [("b", False)]
    assert seconds["a"].tolist() == [2.0] * 3
    np.testing.assert_array_equal(seconds["b"], [2.0, np.nan, np.nan])


def test_targets_and_ratios(capsys):
    from peers_tables import print_seconds
    from records import Records

    args = argparse.Namespace(
        precision="float32",
        targets=True,
        repeats=2,
        batch_size=64,
        num_inputs=1152,
        records=Records(None, {}),
    )
    seconds = {
        "PyTorch, eager, float32": np.array([1.25, 1.25]),
        "JAX textbook, jit": np.array([0.05, np.nan]),
        "kcaps on TensorFlow, dynamic": np.array([0.1, 0.1]),
        "kcaps on JAX, l2": np.array([0.01, 0.01]),
        "kcaps on TensorFlow, l2": np.array([0.016, 0.016]),
        "floor": np.array([0.01, 0.01]),
    }
    print_seconds(args, "layer", seconds)
    rows = {line.split(" | ")[0][2:]: line for line in capsys.readouterr().out.splitlines()}
    assert "| 12.50 | ≥ 12: met | 2.000 |" in rows["kcaps on TensorFlow, dynamic"]
    assert "| ≤ 1.00: MISSED | 10.00 |" in rows["kcaps on TensorFlow, dynamic"]
    assert "| 78.12 | ≥ 80: MISSED |" in rows["kcaps on TensorFlow, l2"]
    assert "≥" not in rows["kcaps on JAX, l2"] + rows["JAX textbook, jit (1 of 2 repeats)"]
    assert list(rows)[-1] == "floor"


def test_a_process_that_does_not_start_is_told_of(tmp_path, capsys):
    from peers_worker import Worker

    line = refused(capsys, lambda: Worker("numpy", sys.executable, ["--quick"]))
    assert "the process of numpy ended with exit code 2: argument --worker" in line
    plain = tmp_path / "python"
    plain.write_text("no program")
    assert "cannot be run" in refused(capsys, lambda: Worker("jax", str(plain), []))


def test_an_environment_that_is_not_there_is_refused(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/peers.py", "--python", tmp_path / "python"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and not result.stdout
    assert "error: --python must be" in result.stderr and result.stderr.count("\n") == 1
