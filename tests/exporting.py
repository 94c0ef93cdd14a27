"""Helpers of the tests of the exporters."""

import contextlib
import io
import os
import pathlib
import runpy
import subprocess
import sys
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest

from kcaps.models import capsnet

ROOT = pathlib.Path(__file__).parents[1]
FORBIDDEN = {"Shape", "Gather", "Loop", "If"}


def python(*arguments, cwd):
    """A Python program in a folder of its own, so that nothing is imported from the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def recipe_here(name, *arguments):
    """A recipe run in this process, which saves the start of another, as a finished process."""
    path = ROOT / "recipes" / f"{name}.py"
    out, err, code = io.StringIO(), io.StringIO(), 0
    command = [str(path), *map(str, arguments)]
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with mock.patch.object(sys, "argv", command), streams[0], streams[1]:
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
    return subprocess.CompletedProcess(command, code or 0, out.getvalue(), err.getvalue())


def small(routing, **options):
    return capsnet((17, 18, 1), 3, routing=routing, filters=4, num_primary_capsules=2, **options)


def onnx_outputs(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def change_a_weight(graph):
    """An ONNX graph with another value in the middle of its first matrix."""
    for tensor in graph.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.ndim > 1 and array.dtype == np.float32:
            array.flat[array.size // 2] += 0.05
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            return graph


def ended(monkeypatch, capsys, main, code, *arguments):
    """Runs a program to its refusal; returns the one line that it printed."""
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == code, captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def contents(folder):
    """All files below a folder, with what is in them."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
