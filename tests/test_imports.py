"""Importing a module of kcaps, export, recipes or benchmarks changes nothing in the process."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Libraries come first: what their imports change is theirs.
PROGRAM = """
import importlib, json, logging, os, sys

for name in sys.argv[2].split():
    importlib.import_module(name)
from keras_tuner.src import config
from keras_tuner.src.distribute import oracle_client
import matplotlib
import tensorflow as tf


def state():
    return {
        "environment": dict(os.environ),
        "path": list(sys.path),
        "hook": sys.excepthook is sys.__excepthook__,
        "streams": [sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
        "descriptors": [os.fstat(number).st_ino for number in (1, 2)],
        "buffering": sys.stdout.line_buffering,
        "levels": [logging.getLogger(name).level for name in ("", "absl", "tensorflow")],
        "figures": matplotlib.get_backend(auto_select=False),
        "devices": str(tf.config.get_visible_devices()),
        "tuner": [config.DEBUG, oracle_client.TIMEOUT],
    }


found = state()
for name in sys.argv[1].split():
    importlib.import_module(name)
    if state() != found:
        print(json.dumps({name: [found, state()]}))
        break
else:
    print(json.dumps({}))
"""
LIBRARIES = (
    *("tensorflow", "keras", "keras_tuner", "matplotlib", "sklearn", "tensorflow_datasets"),
    *("onnx", "onnxruntime", "onnxslim", "tf2onnx", "pandas", "psutil", "grpc", "h5py"),
)

# Parts of `make peers` for the environment that has PyTorch, where TensorFlow is not.
OF_PYTORCH = {"peers_torch", "torch_caps", "torch_capsnet"}


def test_imports_have_no_side_effects():
    names = []
    for folder, place in ((".", "kcaps"), (".", "export"), ("recipes", "."), ("benchmarks", ".")):
        for path in sorted((ROOT / folder / place).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join(part for part in parts if part != "__init__"))
    names = [name for name in names if name and name not in OF_PYTORCH]
    assert {"kcaps.layers", "export.onnx", "mnist", "harness.training", "bench"} <= set(names)
    places = [str(ROOT / name) for name in (".", "recipes", "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-c", PROGRAM, " ".join(names), " ".join(LIBRARIES)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {}
