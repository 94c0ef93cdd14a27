"""Helpers of tests that run programs and read what these write."""

import csv
import pathlib

import pytest

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"
# A closed port of this machine: no download can start, whatever the network.
OFFLINE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}


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
