"""Random command lines: the program runs, or says in one line what is wrong; nothing is left."""

import contextlib
import functools
import io
import pathlib
import runpy
import sys

import data
import distribution

import pytest
from hypothesis import strategies as st

import export.benchmark
import export.onnx
import export.saved_model
import studies
from export import command, summary, verify
from exporting import ROOT, contents
from fuzz import fuzz

MODULES = {
    f"export.{module.__name__.split('.')[-1]}": module.main
    for module in (export.onnx, export.saved_model, export.benchmark, verify, summary)
}
RECIPES = [
    *("digits", "mnist", "fashion_mnist", "cifar10", "multi_mnist", "capsule_regression"),
    *("distorted_mnist", "tune", "reproduce", "regression_studies", "loss_study", "baselines"),
    "routing_iterations",
]
BENCHMARKS = [
    *("bench", "generators", "inference", "loss_study", "regression", "saving", "scaling", "soak")
]


class Reached(Exception):
    """The program took its arguments and would now begin to work."""


def reached(*args, **kwargs):
    raise Reached


def run(name, arguments):
    """A program in this process; its exit code (None where it would begin) and what it printed."""
    path = ROOT / f"{name}.py"
    out, err, code = io.StringIO(), io.StringIO(), 0
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    arguments_before, sys.argv = sys.argv, [str(path), *arguments]
    try:
        with streams[0], streams[1]:
            if name in MODULES:
                MODULES[name]()
            else:
                runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except Reached:
        code = None
    finally:
        sys.argv = arguments_before
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def halted(monkeypatch, tmp_path):
    """Programs end where work would begin, in a folder of their own, and make no strategies."""
    for module, name in ((data, "load"), (studies, "open_folder")):
        monkeypatch.setattr(module, name, reached)
    monkeypatch.setattr(distribution, "start", lambda args: None)
    monkeypatch.setattr("sys.path", [*sys.path, str(ROOT / "benchmarks")])
    monkeypatch.setattr("device.versions", reached)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.chdir(folder)
    return tmp_path


TEXTS = [
    *("", "0", "1", "-1", "7", "3.5", "nan", "inf", "-inf", "1e400", "1e-400", "x", "True"),
    *("2147483648", "9" * 4301, "é", "\udcff", "a b", "%s", "%(prog)s", "\n", "{}", "1,2", ","),
    *("../file", "../file/x", "a" * 300, "/dev/null", "/proc/x", ".", "..", "--", "-", "-h"),
]
NUMBERS = ["1", "2", "7", "0.5"]


@functools.cache
def actions_of(name):
    """What a program's parser takes, but for `--help` and what a benchmark tells itself."""
    found = []

    def record(parser, *args):
        found.extend(each for each in parser._actions[1:] if each.dest not in ("peak", "worker"))
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.Parser, "parse_args", record)
        run(name, [])
    return found


@st.composite
def command_lines(draw, names):
    """Mostly the right number of words after an option, and mostly words that may be right."""
    name = draw(st.sampled_from(names))
    actions = actions_of(name)
    words = []
    needed = [action for action in actions if action.required]
    for action in [*needed, *draw(st.lists(st.sampled_from(actions), max_size=4))]:
        plausible = [str(choice) for choice in action.choices or NUMBERS]
        if action.type is pathlib.Path:
            plausible = ["out", "a/b", "."]
        count = {0: 0, "+": 2, "*": 2}.get(action.nargs, 1)
        if draw(st.integers(0, 9)) == 0:
            count, plausible = draw(st.integers(0, 2)), TEXTS
        elif draw(st.integers(0, 3)) == 0:
            plausible = TEXTS
        words += action.option_strings[-1:]
        words += [draw(st.sampled_from(plausible)) for _ in range(count)]
    return name, words


def check(folder, line):
    name, words = line
    before = contents(folder)
    code, out, err = run(name, words)
    assert contents(folder) == before, "something was left"
    assert len(list(folder.rglob("*"))) == 2, "a folder was left"
    if code is None:
        assert not err
    elif code == 0:
        assert "usage:" in out and not err
    else:
        assert code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err


@fuzz(60, 600, line=command_lines([f"recipes/{name}" for name in RECIPES]))
def test_recipes(halted, line):
    check(halted, line)


@fuzz(30, 300, line=command_lines([*MODULES]))
def test_exporters(halted, line):
    check(halted, line)


@fuzz(None, 300, line=command_lines([f"benchmarks/{name}" for name in BENCHMARKS]))
def test_benchmarks(halted, line):
    check(halted, line)
