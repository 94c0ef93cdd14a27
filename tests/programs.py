"""Helpers of tests that run programs and read what these write."""

import contextlib
import csv
import io
import os
import pathlib
import runpy
import subprocess
import sys
from unittest import mock

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
# A closed port of this machine: no download can start, whatever the network.
OFFLINE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}

# The program that `sitecustomize.py` of a folder in PYTHONPATH is. Packages in BLOCKED are as if
# they were not installed; with NAMELESS they are, and their import fails without their names.
BLOCKER = """
import importlib.machinery
import os


class Broken:
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise ImportError("blocked")


find = importlib.machinery.PathFinder.find_spec


def find_spec(name, path=None, target=None):
    if name.split(".")[0] not in os.environ["BLOCKED"].split(","):
        return find(name, path, target)
    if "NAMELESS" in os.environ:
        return importlib.machinery.ModuleSpec(name, Broken(), is_package=True)


importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""


def refused(capsys, call):
    """Calls a function that refuses what it is given; returns the one line that it prints."""
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def rows(path):
    """Returns the rows of a CSV file, a dict of text each."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def take(batches, count, start=0):
    """Returns so many batches from one on, each a list of arrays."""
    return [list(batches(number)) for number in range(start, start + count)]


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


def named(line, package):
    """Whether a line says how to install a package."""
    return line.startswith(
        f"error: {package} is needed and cannot be imported (kcaps["
    ) and line.endswith(f"python -m pip install {package}\n")
