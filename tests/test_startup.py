"""The start of a recipe: what it imports, how often it traces, and the benchmark of its seconds."""

import csv
import gc
import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

from export import command
from harness import measurements, training
from harness.network_settings import NetworkSettings
from kcaps.models import CapsNet
from networks import capsnets
from pictures_of.batches import stream
from programs import BLOCKER, RECIPES, ROOT, named, refused

# Modules that no training needs before its end.
HEAVY = {"sklearn", "matplotlib", "pandas", "jax", "IPython", "pyarrow"}
HEAVY |= {"tensorflow_datasets", "keras_tuner", "onnx", "onnxruntime", "tf2onnx"}

# Runs a recipe to its call of `fit`, and tells what it has imported.
TO_FIT = """
import json, runpy, sys

sys.path[:0] = {places!r}
from export import command

def set_up(*args, **options):
    original(*args, **options)
    import keras

    def fit(*args, **options):
        print(json.dumps(sorted(sys.modules)))
        raise SystemExit

    keras.Model.fit = fit

original, command.set_up = command.set_up, set_up
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def last_line(code, **environment):
    """Returns the last line that a program prints, read as JSON."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        ("digits", ()),
        *(
            pytest.param(name, ("--synthetic", "--network", "efficient"), marks=pytest.mark.long)
            for name in ("mnist", "cifar10", "multi_mnist")
        ),
    ],
)
def test_a_recipe_starts_without_what_it_needs_last(tmp_path, recipe, arguments):
    argv = [str(RECIPES / f"{recipe}.py"), *arguments, "--output", str(tmp_path / "run")]
    code = TO_FIT.format(places=[str(RECIPES), str(ROOT)], argv=argv)
    found = set(last_line(code, KERAS_BACKEND="tensorflow"))
    assert {"tensorflow", "keras", "kcaps", "harness.training"} <= found
    assert found & HEAVY == set()


@pytest.mark.tensorflow
def test_what_the_start_leaves_out_is_there_afterwards():
    """Packages import as ever, and garbage is searched for again."""
    code = (
        "import gc, json, sys\n"
        "from export.command import set_up\n"
        "import pandas\n"
        "set_up('tensorflow', start=False)\n"
        "hidden = 'IPython', 'jax', 'matplotlib', 'scipy', 'sklearn'\n"
        "found = [name for name in hidden if name in sys.modules]\n"
        "import matplotlib.pyplot, scipy.stats, sklearn.metrics\n"
        "values = pandas.DataFrame({'x': [1, 2]}).x.tolist()\n"
        "right = sklearn.metrics.accuracy_score(values, [1, 3])\n"
        "print(json.dumps([found, right, sys.modules['pandas'] is pandas, gc.isenabled()]))"
    )
    assert last_line(code) == [[], 0.5, True, True]


def test_modules_are_left_out_for_a_while(monkeypatch):
    own = types.ModuleType("own")
    monkeypatch.setitem(sys.modules, "own", own)
    with command._without(("own", "colorsys_of_nobody", "this")):
        assert sys.modules["own"] is own
        with pytest.raises(ModuleNotFoundError) as caught:
            import this  # noqa: F401
        assert caught.value.name == "this"
    assert "this" not in sys.modules and "colorsys_of_nobody" not in sys.modules
    with pytest.raises(KeyError), command._without(("this",)):
        raise KeyError
    assert "this" not in sys.modules


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_searched_for_as_before(monkeypatch, enabled):
    monkeypatch.setattr(gc, "freeze", lambda: None)  # The garbage of other tests would stay.
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with command._uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_missing_package_of_the_pictures_ends_the_program_at_its_beginning(monkeypatch):
    find = training.importlib.util.find_spec
    for missing in ("matplotlib", "sklearn"):
        monkeypatch.setattr(
            training.importlib.util,
            "find_spec",
            lambda name, missing=missing: None if name == missing else find(name),
        )
        monkeypatch.setattr(sys, "argv", ["recipes/tiny.py"])
        with pytest.raises(ModuleNotFoundError) as caught:
            training.begin("A tiny recipe.", epochs=1)
        assert caught.value.name == missing


@pytest.mark.long
@pytest.mark.tensorflow
def test_a_broken_package_of_the_pictures_costs_no_training(tmp_path):
    """It is named after the training, whose model is kept; later, the same run draws pictures."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    broken = {"BLOCKED": "matplotlib", "NAMELESS": "1", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, RECIPES / "digits.py", "--limit", "60", "--epochs", "1"]
    command += ["--output", tmp_path / "run"]
    options = {"capture_output": True, "text": True}
    result = subprocess.run(command, env={**os.environ, **broken}, **options)
    assert result.returncode == 2 and named(result.stderr, "matplotlib"), result.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["epochs"] == 1 and not (tmp_path / "run/curves.png").exists()
    result = subprocess.run([*command, "--resume"], **options)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run/report.json").read_text()) == report
    for name in ("curves", "confusion", "reconstructions", "dimensions"):
        assert (tmp_path / "run" / f"{name}.png").exists()


@pytest.mark.tensorflow
@pytest.mark.compiled
def test_a_step_is_traced_once(monkeypatch, tmp_path):
    """Not twice, as where a step makes variables, such as those of a metric."""
    traces, step = [], CapsNet.train_step
    monkeypatch.setattr(
        CapsNet, "train_step", lambda model, *batch: traces.append(1) or step(model, *batch)
    )
    argv = [
        "recipes/digits.py",
        "--limit",
        "60",
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    settings = training.begin("Digits.", NetworkSettings, has_folder=False, data_set="digits")
    images = settings.load_images("digits")
    model = capsnets.build(settings, images.shape, images.num_classes)
    settings.compile(model, images.train[0])
    batches = stream(*images.train, 18, settings.seed)
    history = training.fit(model, images, settings.run, batches, images.validation)
    assert len(traces) == 1
    lengths = model.predict(images.validation[0], verbose=0)
    right = np.mean(lengths.argmax(-1) == images.validation[1])
    assert history["val_accuracy"] == [pytest.approx(right)]
    assert isinstance(keras.metrics.get(model.get_compile_config()["metrics"][0]), keras.Metric)


@pytest.fixture
def startup(monkeypatch):
    """The benchmark's modules."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import startup
    import startup_worker

    yield types.SimpleNamespace(program=startup, worker=startup_worker)


@pytest.mark.tensorflow
def test_stages_are_parts_of_the_whole(startup, monkeypatch):
    """Each stage has its own time; the first step is split into tracing, compilation, steps."""
    clock = [100.0]
    monkeypatch.setattr(startup.worker.time, "time", lambda: clock[0])
    monkeypatch.setattr(startup.worker.time, "process_time", lambda: (clock[0] - 100) / 2)

    def wait(seconds, result=None):
        clock[0] += seconds
        return result

    stages, names = startup.worker.Stages(100.0), startup.worker.STAGES
    wait(1)
    stages.end(names[0])
    watched = stages.ending(names[2], lambda: wait(4, "result"), before=names[1])
    wait(2)
    assert watched() == "result"
    for _ in range(2):
        with stages.adding(names[7]):
            wait(8)
    wait(32)
    stages.end(names[8])
    wait(0.5)
    stages.end(names[9])
    stages.split_first_step(stages.seconds[names[9]])
    expected = {names[0]: 1, names[1]: 2, names[2]: 4, names[7]: 16, names[8]: 31.5, names[9]: 0.5}
    assert stages.seconds == {name: [value, value / 2] for name, value in expected.items()}
    assert sum(expected.values()) == 1 + 2 + 4 + 16 + 32  # to the end of the first step


@pytest.mark.tensorflow
def test_rounds(startup):
    """All rows run in each round, and the first round does not count."""
    called = {"a": [], "b": []}

    def row(name):
        called[name].append(len(called[name]))
        return {"x": [float(called[name][-1]), 0.0], "y": [1.0, 2.0]}

    found = startup.program.measure({name: lambda name=name: row(name) for name in called}, 3)
    assert called == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    np.testing.assert_array_equal(found["b"]["x"], [[1, 0], [2, 0], [3, 0]])
    total = startup.program.with_totals(found["a"])[startup.program.TOTAL]
    np.testing.assert_array_equal(total, [[2, 2], [3, 2], [4, 2]])


@pytest.mark.tensorflow
def test_tables_and_measurements(startup, capsys, monkeypatch):
    program = startup.program
    monkeypatch.setattr("harness.provenance.commit", lambda: "8726661")
    now = program.with_totals({"data": np.full((3, 2), 1.0), "model": np.full((3, 2), 3.0)})
    before = program.with_totals({"data": np.full((3, 2), 4.0), "model": np.full((3, 2), 6.0)})
    states, imports = {"now": now, "old": before}, {"import keras": np.full((3, 2), 2.5)}
    program.print_stages(states, 1, 0.5)
    text = capsys.readouterr().out
    assert "## Seconds of the processor" in text
    assert (
        "| data | 1.000 | 1.000 – 1.000 | 25.0 | 4.000 | 4.000 – 4.000 | 40.0 | 0.250 |  |" in text
    )
    assert "| 100.0 | 0.400 | ≤ 0.50: met |" in text
    program.print_stages(states, 0, 0.3)
    assert "| 0.400 | ≤ 0.30: MISSED |" in capsys.readouterr().out
    program.print_stages({"now": now}, 0, 0.3)
    assert "required" not in capsys.readouterr().out
    rows = program.measurements_of(states, imports, 3)
    assert len(rows) == 2 * (3 + 3 + 1) + 2 * 3
    filled = [{name: row.get(name, "") for name in measurements.COLUMNS} for row in rows]
    assert [measurements.faults(row) for row in filled] == [[]] * len(rows)
    total = [row for row in filled if row["setting"] == "of old" and row["method"] == program.TOTAL]
    assert [(row["quantity"], row["value"]) for row in total] == [
        ("on the clock", "0.400"),
        ("of the processor", "0.400"),
    ]


@pytest.mark.tensorflow
@pytest.mark.parametrize("words", [("--baseline", "none"), ("--repeats", "0")])
def test_what_the_benchmark_refuses(startup, monkeypatch, capsys, words, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks/startup.py", *words])
    assert words[0] in refused(capsys, startup.program.read_arguments)


@pytest.mark.long
@pytest.mark.tensorflow
def test_a_quick_run_prints_its_tables(tmp_path):
    """Beside itself, under another name."""
    (tmp_path / "other").symlink_to(ROOT)
    path = tmp_path / "startup.csv"
    program = [sys.executable, ROOT / "benchmarks/startup.py", "--quick", "--repeats", "1"]
    program += ["--baseline", tmp_path / "other", "--measurements", path]
    result = subprocess.run(program, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    text = result.stdout
    assert text.count("\n## ") == 3 and text.count("| first step: traced by Python |") == 2
    for name in ("tensorflow", "keras"):
        assert f"| import {name} |" in text
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = {(row["method"], row["setting"], row["quantity"]): row["value"] for row in rows}
    for quantity in ("on the clock", "of the processor"):
        stages = [
            float(v) for (_, state, name), v in values.items() if (state, name) == ("now", quantity)
        ]
        *parts, total = stages
        assert len(parts) == 10 and min(parts) > 0 and sum(parts) == pytest.approx(total, abs=0.01)
