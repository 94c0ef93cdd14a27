"""The one command for all exporters: the same programs as `python -m export.onnx` and others."""

import importlib.metadata
import subprocess
import sys

import pytest

from export.__main__ import COMMANDS, main


def run(*words, **options):
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_the_console_script_is_declared():
    scripts = importlib.metadata.distribution("kcaps").entry_points
    assert [x.load() for x in scripts.select(group="console_scripts", name="kcaps")] == [main]


@pytest.mark.parametrize("name", ["saved-model", "summary"])
def test_bad_input_is_what_the_program_itself_says(tmp_path, name):
    module, _ = COMMANDS[name]
    arguments = "--model", tmp_path / "none"
    by_command, by_module = run("export", name, *arguments), run(module, *arguments)
    assert by_command.returncode == by_module.returncode == 2
    assert by_command.stderr == by_module.stderr and by_command.stderr.count("\n") == 1


def test_an_export_on_another_backend(checkpoint_copy, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    result = run("export", "onnx", "--model", checkpoint_copy, "--limit", 10)
    assert result.returncode == 0, result.stderr
    assert (checkpoint_copy / "model.onnx").exists()
    assert "model.onnx" in run("export", "summary", "--model", checkpoint_copy).stdout


def test_help_and_unknown_commands(monkeypatch, capsys):
    for words in (["kcaps"], ["kcaps", "--help"]):
        monkeypatch.setattr(sys, "argv", words)
        main()
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in COMMANDS)
    monkeypatch.setattr(sys, "argv", ["kcaps", "onyx"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "COMMAND must be one of onnx, saved-model" in capsys.readouterr().err
