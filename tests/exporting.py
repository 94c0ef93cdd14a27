"""Helpers of the tests of the exporters."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from kcaps.models import capsnet
from programs import ROOT, python, recipe_here

__all__ = ["ROOT", "python", "recipe_here"]  # which tests of exporters need, too

FORBIDDEN = {"Shape", "Gather", "Loop", "If"}


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
