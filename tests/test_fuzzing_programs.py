"""Random command lines: the program runs, or says in one line what is wrong; nothing is left."""

import contextlib
import functools
import io
import pathlib
import re
import runpy
import sys

import pytest
from hypothesis import strategies as st

import export.benchmark
import export.litert
import export.onnx
import export.saved_model
import export.web
from export import command, predict, summary, verify
from exporting import ROOT, contents
from fuzz import fuzz
from harness import distribution, study
from pictures_of import data

MODULES = {
    f"export.{module.__name__.split('.')[-1]}": module.main
    for module in (
        *(export.onnx, export.saved_model, export.litert, export.benchmark),
        *(export.web, verify, summary, predict),
    )
}


def programs_in(folder):
    """Names of the programs in a folder, so that a new one is tested, too.

    Workers are left out, which a program alone starts.
    """
    paths = sorted(x for x in (ROOT / folder).glob("*.py") if not x.stem.endswith("_worker"))
    paths = [path for path in paths if '__name__ == "__main__"' in path.read_text()]
    return [f"{folder}/{path.stem}" for path in paths]


RECIPES, BENCHMARKS = programs_in("recipes"), programs_in("benchmarks")
PROGRAMS = [*RECIPES, *BENCHMARKS, *MODULES]


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
    for module, name in ((data, "load"), (study, "open_folder")):
        monkeypatch.setattr(module, name, reached)
    monkeypatch.setattr(distribution, "start", lambda settings: settings)
    monkeypatch.setattr("sys.path", [*sys.path, str(ROOT / "benchmarks")])
    monkeypatch.setattr("device.versions", reached)
    monkeypatch.setattr("campaign_runner.Campaign", reached)
    monkeypatch.setattr("peers_worker.Worker", reached)
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
def parser_of(name):
    """The parser that a program makes."""
    found = []

    def record(parser, *args):
        found.append(parser)
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.Parser, "parse_args", record)
        run(name, [])
    return found[0]


def actions_of(name):
    """Returns what a program's parser takes, but for `--help` and a benchmark's own options."""
    return [each for each in parser_of(name)._actions[1:] if each.dest not in ("peak", "worker")]


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
        assert ("usage:" in out or "--list" in words) and not err
    else:
        assert code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err


@fuzz(60, 600, line=command_lines(RECIPES))
def test_recipes(halted, line):
    check(halted, line)


@fuzz(30, 300, line=command_lines([*MODULES]))
def test_exporters(halted, line):
    check(halted, line)


@fuzz(None, 300, line=command_lines(BENCHMARKS))
def test_benchmarks(halted, line):
    check(halted, line)


def refusal(name, words):
    """The line that a program refuses a command line with."""
    code, out, err = run(name, words)
    assert code == 2, (code, out, err)
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_the_programs_are_found():
    assert {"recipes/digits", "recipes/tune", "recipes/routing_iterations"} <= set(RECIPES)
    assert {"benchmarks/bench", "benchmarks/soak"} <= set(BENCHMARKS)
    mains = {
        f"export.{path.stem}"
        for path in (ROOT / "export").glob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path.stem != "__main__"
    }
    assert mains == set(MODULES)


def test_there_is_one_kind_of_parser():
    for folder in ("recipes", "export", "benchmarks", "kcaps"):
        for path in (ROOT / folder).rglob("*.py"):
            makes = re.findall(r"ArgumentParser|add_subparsers", path.read_text())
            assert len(makes) == (path == ROOT / "export/command.py"), path


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_prefix_of_an_option_is_taken(halted, name, capsys):
    parser = parser_of(name)
    known = set(parser._option_string_actions)
    needed = []
    for action in parser._actions:
        if action.required:
            needed += [*action.option_strings[:1], str(next(iter(action.choices or ["x"])))]
    for option in sorted(known - {"-h"}):
        for length in range(3, len(option)):
            if option[:length] not in known:
                for words in ([option[:length], "1"], [f"{option[:length]}=1"]):
                    with pytest.raises(SystemExit) as stop:
                        parser.parse_args([*needed, *words])
                    assert stop.value.code == 2
                    line = capsys.readouterr().err
                    assert line.startswith("error: unrecognized arguments: " + " ".join(words))


def test_what_an_abbreviation_may_have_meant(halted):
    assert "written in full: --data-dir" in refusal("recipes/mnist", ["--data", "flowers/"])
    line = refusal("recipes/digits", ["--data", "flowers/"])
    assert line == "error: unrecognized arguments: --data flowers/\n"  # which has no --data-dir
    assert "--seeds, --seed" not in refusal("recipes/baselines", ["--se=3"])


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_tells_every_default(halted, name):
    code, text, err = run(name, ["--help"])
    assert code == 0 and not err and "None" not in text
    text = "".join(text.split())
    for action in actions_of(name):
        if action.help != "==SUPPRESS==" and action.default not in (None, "==SUPPRESS=="):
            assert "".join(f"{action.default}".split()) in text, action.option_strings


# A program; an option with its value; words with which it is not used; words with which it is.
UNUSED = [
    ("recipes/digits", "--data-dir x", "", None),
    ("recipes/digits", "--data-dir=x", "--synthetic", None),
    *(
        (f"recipes/{name}", "--data-dir x", "--synthetic", "--limit 9")
        for name in ("mnist", "fashion_mnist", "cifar10", "multi_mnist", "distorted_mnist")
    ),
    *(
        (f"recipes/{name}", "--data-dir x", "--data digits", "--data mnist")
        for name in ("capsule_regression", "baselines", "tune")
    ),
    ("recipes/capsule_regression", "--data-dir x", "", "--data mnist"),
    ("recipes/capsule_regression", "--dims 1 2", "", "--sweep"),
    ("recipes/capsule_regression", "--capsule-dim 2", "--sweep", ""),
    ("recipes/capsule_regression", "--architecture multiclass", "--sweep --dims 1", ""),
    ("recipes/capsule_regression", "--seed 0", "", "--data mnist --distorted 9"),
    ("recipes/capsule_regression", "--distorted 9", "", "--data mnist"),
    ("recipes/regression_studies", "--levels 1", "--study updates", "--study initialisations"),
    ("recipes/regression_studies", "--draws=20", "--study updates", "--study initialisations"),
    *(
        ("recipes/loss_study", option, unused, used)
        for option, unused, used in [
            ("--limit 9", "", "--study all"),
            ("--synthetic", "--study spiral random", "--study spiral cifar10"),
            ("--data-dir x", "--study toy", "--study mnist"),
            ("--units 9", "--study cifar10", "--study mnist"),
            ("--units 9", "--study mnist --depths 0", "--study mnist --depths 0 1"),
            ("--label-noise 0.5", "--study cifar10 toy", "--study mnist"),
            ("--depths 2", "--study cifar10", "--study cifar10 mnist"),
        ]
    ),
    ("recipes/baselines", "--seeds 1", "--models capsule_regression", "--models mlp"),
    ("recipes/tune", "--budget cpu", "--model capsnet --data mnist", "--model cnn --data mnist"),
    ("recipes/tune", "--budget gpu", "--model mlp", "--model l1_routing --data mnist"),
    ("recipes/tune", "--batch-size 9", "--model capsule_regression", "--model mlp"),
    ("recipes/tune", "--executions 2", "--model capsule_regression", "--model mlp"),
    ("recipes/tune", "--seed 2", "--model capsule_regression --tuner grid", "--tuner grid"),
    ("recipes/tune", "--silence 9", "", None),
    ("recipes/reproduce", "--seeds 3", "figure4", "figure3"),
    ("recipes/reproduce", "--update joint", "efficient_capsnet", "table2"),
    ("recipes/reproduce", "--update alternating", "table2 --methods dynamic", "routings"),
    ("recipes/reproduce", "--update joint", "table2 --tasks mnist --methods dynamic", "figure2"),
    ("recipes/reproduce", "--data-dir x", "table2 --synthetic", "table2"),
    ("benchmarks/bench", "--repeats 2", "--only memory", "--only memory,layer"),
    ("benchmarks/bench", "--batch-size 2", "--only memory --quick", "--only scaling"),
    ("benchmarks/bench", "--routings l1", "--only scaling", "--only scaling,step"),
    ("benchmarks/regression", "--repeats 2", "--only memory", "--only memory,scaling"),
]


@pytest.mark.parametrize(("name", "option", "unused", "used"), UNUSED)
def test_an_option_that_is_not_used_is_refused(halted, name, option, unused, used):
    before = contents(halted)
    for words in (f"{unused} {option}", f"{option} {unused}"):
        line = refusal(name, words.split())
        assert line.startswith(f"error: {re.split('[ =]', option)[0]} must be left out: "), line
        assert f"Received: {option.replace('=', ' ')}" in line
    assert contents(halted) == before
    if used is None:  # not by this program: it is not in its help either
        assert f"{option.split()[0]} " not in run(name, ["--help"])[1] or "silence" in option
    else:
        code, _, err = run(name, f"{used} {option}".split())
        assert code is None, err


def test_the_silence_of_workers(halted, monkeypatch):
    for name in ("IP", "PORT"):
        monkeypatch.setenv(f"KERASTUNER_ORACLE_{name}", "1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert run("recipes/tune", ["--silence", "9"])[0] is None
