"""Programs choose their backend, and say in one line which library is missing."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from exporting import ROOT, contents

PROGRAMS = ["onnx", "saved_model", "litert", "verify", "benchmark", "summary"]
WITHOUT = """
import importlib.abc, runpy, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = {arguments!r}
runpy.run_module({program!r}, run_name="__main__", alter_sys=True)
"""


def program(name, *arguments, without="nothing", cwd, **environment):
    """A program in a process in which a module cannot be imported."""
    arguments = [name, *map(str, arguments)]
    code = WITHOUT.format(module=without, program=f"export.{name}", arguments=arguments)
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def assert_needs(result, package):
    assert result.returncode == 2, result.stderr
    assert (
        result.stderr.startswith(f"error: {package} is needed") and result.stderr.count("\n") == 1
    )
    assert f"pip install {package}" in result.stderr


@pytest.fixture(scope="module")
def exported(digits_checkpoint, tmp_path_factory):
    """A folder with a copy of the checkpoint that has an ONNX file."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(digits_checkpoint, folder / "ckpt")
    result = program("onnx", "--model", "ckpt", "--limit", 5, cwd=folder, KERAS_BACKEND="torch")
    assert result.returncode == 0, result.stderr
    return folder


EXPORTERS = ("onnx", "saved_model", "litert")
MISSING = {
    "onnx": ["tensorflow", "tf2onnx", "onnx", "onnxruntime", "onnxslim", "sklearn"],
    "saved_model": ["tensorflow", "sklearn"],
    "litert": ["tensorflow", "sklearn"],
    "verify": ["tensorflow", "onnxruntime", "sklearn"],
    "benchmark": ["tensorflow", "tf2onnx", "sklearn"],
}


def cases(pairs, short):
    """Cases of which each starts a program: all but a few are long tests."""
    return [pytest.param(*x, marks=() if x in short else pytest.mark.long) for x in pairs]


@pytest.mark.parametrize(
    ("name", "module"),
    cases(
        [(name, module) for name in MISSING for module in MISSING[name]],
        [("onnx", "tf2onnx"), ("saved_model", "tensorflow"), ("verify", "sklearn")],
    ),
)
def test_a_missing_library_is_one_line(exported, digits_checkpoint, name, module):
    before = contents(exported)
    output = ["--output", exported / "other"] if name in EXPORTERS else []
    # A benchmark converts a model only where there is no file of it.
    model = digits_checkpoint if (name, module) == ("benchmark", "tf2onnx") else "ckpt"
    arguments = ["--model", model, *output]
    result = program(name, *arguments, without=module, cwd=exported, KERAS_BACKEND="jax")
    assert_needs(result, {"sklearn": "scikit-learn"}.get(module, module))
    assert contents(exported) == before


@pytest.mark.long
def test_a_saved_model_needs_nothing_of_onnx(exported, tmp_path):
    for number, module in enumerate(("onnx", "onnxruntime")):
        arguments = ("--model", "ckpt", "--output", tmp_path / str(number), "--limit", 5)
        result = program("saved_model", *arguments, without=module, cwd=exported)
        assert result.returncode == 0 and not result.stderr, result.stderr


def test_a_summary_needs_no_library(exported):
    for module in ("tensorflow", "keras", "numpy"):
        result = program("summary", "--model", "ckpt", without=module, cwd=exported)
        assert result.returncode == 0, result.stderr
        assert "test accuracy" in result.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "backend"),
    cases(
        [(name, ("jax", "torch")[n % 2]) for n, name in enumerate(PROGRAMS)],
        [("onnx", "jax"), ("saved_model", "torch")],
    ),
)
def test_programs_run_on_tensorflow_whatever_is_asked_for(exported, tmp_path, name, backend):
    """By the environment or by Keras' own file, installed or not."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": backend}))
    output = ["--output", tmp_path / "file"] if name in EXPORTERS else []
    limit = ["--limit", 5] if output else []
    sizes = ["--batch-sizes", 1, "--repeats", 1] if name == "benchmark" else []
    arguments = ["--model", "ckpt", *output, *limit, *sizes]
    asked = {"KERAS_BACKEND": backend} if name != "onnx" else {"KERAS_HOME": str(tmp_path)}
    result = program(name, *arguments, without=backend, cwd=exported, **asked)
    assert result.returncode == 0 and not result.stderr, result.stderr


def test_an_empty_choice_leaves_it_to_the_program(exported, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    environment = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""}
    result = program("verify", "--model", "ckpt", cwd=exported, **environment)
    assert result.returncode == 0 and not result.stderr, result.stderr


def test_functions_say_which_backend_they_need(exported):
    code = (
        "import keras\nfrom export.onnx import export_onnx\n"
        "image = keras.Input((4,))\n"
        "try:\n    export_onnx(keras.Model(image, keras.layers.Dense(2)(image)), 'x.onnx')\n"
        "except ValueError as error:\n    print(error)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=exported, env=environment
    )
    assert "Set KERAS_BACKEND=tensorflow. Received: backend 'jax'" in result.stdout, result.stderr


def test_importing_without_a_library_is_an_import_error(tmp_path):
    code = WITHOUT.replace('run_name="__main__", alter_sys=True', 'run_name="imported"')
    code = code.format(module="onnxslim", program="export.onnx_target", arguments=["imported"])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'onnxslim'")
