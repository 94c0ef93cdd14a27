"""The recipes: their folder, going on where they stopped, and one line for bad input."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings

import h5py
import keras
import numpy as np
import pytest

import programs
from export import command
from harness import checkpoints, measurements, run_folder, training
from pictures_of import data
from pictures_of.batches import Change
from programs import BLOCKER, OFFLINE, RECIPES, named, refused
from tiny_run import begin, run_tiny


def recipe(name, *arguments, **options):
    environment = {**os.environ, **OFFLINE}
    command = [sys.executable, str(RECIPES / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def read_csv(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_checkpoint_folder(monkeypatch, tmp_path, capsys):
    model = run_tiny(monkeypatch, tmp_path / "a" / "ckpt")
    folder = tmp_path / "a" / "ckpt"
    assert {path.name for path in folder.iterdir()} == {
        *("model.keras", "run.json", "history.csv", "report.json", "backup"),
        *("curves.png", "confusion.png", "reconstructions.png", "dimensions.png"),
        *("capsules.png", "couplings.png"),
    }
    run = json.loads((folder / "run.json").read_text())
    assert run["recipe"] == "tiny" and run["seed"] == 0 and len(run["labels"]) == 10
    assert run["data"] == {
        "name": "digits",
        "title": "synthetic images shaped like digits",
        "loader": "synthetic",
    }
    report = json.loads((folder / "report.json").read_text())
    assert all(isinstance(value, int | float) for value in report.values())
    assert report["synthetic"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"test accuracy {100 * report['test_accuracy']:.2f} % on {report['test_images']} test "
        f"images of synthetic images shaped like digits; checkpoint in {folder}/"
    )
    history = read_csv(folder / "history.csv")
    assert len(history) == 3 and history[0][0] == "epoch"
    assert history[1][history[0].index("synthetic")] == "1.0"
    # the kept model is the best on validation, and takes raw pixels
    images = data.load("digits", limit=60, synthetic=True)
    loaded = keras.saving.load_model(folder / "model.keras")
    loaded.compile("sgd", metrics=["accuracy"])
    best = min(float(row[history[0].index("val_loss")]) for row in history[1:])
    assert loaded.evaluate(*images.validation, verbose=0, return_dict=True)[
        "loss"
    ] == pytest.approx(best, rel=1e-4)
    lengths = loaded.predict(images.test[0], verbose=0)
    assert np.mean(lengths.argmax(-1) == images.test[1]) == report["test_accuracy"]
    np.testing.assert_array_equal(lengths, model.predict(images.test[0], verbose=0))


def test_a_resumed_run_equals_an_uninterrupted_one(monkeypatch, tmp_path):
    whole = run_tiny(monkeypatch, tmp_path / "whole", "--epochs", 3)
    run_tiny(monkeypatch, tmp_path / "parts", "--epochs", 1)
    keras.utils.set_random_seed(99)
    parts = run_tiny(monkeypatch, tmp_path / "parts", "--epochs", 3, "--resume")
    whole_history, parts_history = (
        run_folder.read_history(tmp_path / name / "history.csv") for name in ("whole", "parts")
    )
    seconds = parts_history.pop("seconds")
    assert len(seconds) == len(whole_history.pop("seconds")) == 3
    assert parts_history == whole_history
    report = json.loads((tmp_path / "parts/report.json").read_text())
    assert report["training_seconds"] == pytest.approx(sum(seconds), abs=0.01)  # of both parts
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resume_without_a_run_starts_one_and_repeats_a_finished_one(monkeypatch, tmp_path):
    run_tiny(monkeypatch, tmp_path / "ckpt", "--resume")
    before = (tmp_path / "ckpt/report.json").read_text()
    (tmp_path / "ckpt/model.onnx").write_text("old")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run_tiny(monkeypatch, tmp_path / "ckpt", "--resume")
    assert not [str(each.message) for each in found if each.category is UserWarning]
    after = json.loads((tmp_path / "ckpt/report.json").read_text())
    assert not (tmp_path / "ckpt/model.onnx").exists()  # it was of the model before
    assert after | {"training_seconds": 0} == json.loads(before) | {"training_seconds": 0}


def fit_tiny(monkeypatch, output, callback=None, change=None):
    """A run of two epochs with something that happens in the second; returns its arguments."""

    def spoilt(*arguments):
        callbacks = training_callbacks(*arguments)
        return [*callbacks, callback] if callback else callbacks

    training_callbacks = training._callbacks
    monkeypatch.setattr(training, "_callbacks", spoilt)
    settings = begin(monkeypatch, "--synthetic", "--limit", 60, "--output", output)
    images = settings.load_images("digits")
    image = keras.Input(images.shape)
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    training.train(model, images, settings.run, change)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupt(batch, logs):
        raise KeyboardInterrupt

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(SystemExit) as stop:
        fit_tiny(monkeypatch, tmp_path / "run", callback)
    assert stop.value.code == 130
    assert "interrupted after 0 epochs; --resume goes on" in capsys.readouterr().err
    assert keras.saving.load_model(tmp_path / "run/model.keras").count_params() == 650
    monkeypatch.undo()
    again = begin(
        monkeypatch, "--synthetic", "--limit", 60, "--output", tmp_path / "run", "--resume"
    )
    assert again.resume


def test_a_full_disk_loses_no_earlier_checkpoint(monkeypatch, tmp_path, capsys):
    written = checkpoints.write_state

    def full(path, epoch, values):
        if epoch == 2:
            raise OSError(28, "No space left on device")
        written(path, epoch, values)

    monkeypatch.setattr(checkpoints, "write_state", full)
    with pytest.raises(SystemExit) as stop:
        fit_tiny(monkeypatch, tmp_path / "run")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "No space left on device" in message and "goes on after 1 epochs" in message
    assert checkpoints.epochs_in(tmp_path / "run" / checkpoints.STATE) == 1
    assert keras.saving.load_model(tmp_path / "run/model.keras").count_params() == 650


def test_saving_again_makes_no_optimizer(monkeypatch, tmp_path):
    """TensorFlow never frees all the memory of one."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    checkpoints.write_model(model, tmp_path / "model.keras")
    monkeypatch.setattr(keras.optimizers.Optimizer, "__init__", None)
    checkpoints.write_model(model, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def diverge(monkeypatch, output, capsys, callback=None, change=None):
    """A run that stops in its second epoch; returns its one line, and checks what it leaves."""
    with pytest.raises(SystemExit) as stop:
        fit_tiny(monkeypatch, output, callback, change)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "what was saved before is still there" in message.lower()
    assert checkpoints.epochs_in(output / checkpoints.STATE) == 1
    with h5py.File(output / checkpoints.STATE, "r") as file:
        assert all(np.isfinite(file[name][()]).all() for name in file)
    weights = keras.saving.load_model(output / "model.keras").get_weights()
    assert all(np.isfinite(weight).all() for weight in weights)
    return message


def test_nan_is_reported_where_it_enters(monkeypatch, tmp_path, capsys):
    def spoil(images, draws):
        images = images.astype("float32")
        if 0.25 in draws:
            images[2, 7, 7, 0], images[5, 0, 0, 0] = np.nan, np.inf
        return images

    def draw(rng, count):  # 54 images, batches of 16: steps 3 to 5 are of the second epoch
        is_step_4 = rng.random() == np.random.default_rng([0, 1, 4]).random()
        return (np.full(count, 0.25 if is_step_4 else 0.5),)

    message = diverge(monkeypatch, tmp_path / "run", capsys, change=Change(draw, spoil))
    assert "2 of 16 images hold NaN or infinity: step 4, epoch 2, batch 2 of 3" in message
    assert "images 2 5 of the batch" in message and "goes on after 1 epochs" in message


@pytest.mark.parametrize("batch", [1, 2])
def test_a_loss_that_is_not_finite_ends_training_where_it_arises(
    monkeypatch, tmp_path, capsys, batch
):
    """Weights spoilt by a step show in the loss of the next, or in the validation after it."""

    steps = []

    def spoil(step, logs):
        steps.append(step)
        if len(steps) == 3 + batch + 1:  # in the second epoch
            callback.model.trainable_variables[0].assign(np.full((64, 10), np.nan))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=spoil)
    message = diverge(monkeypatch, tmp_path / "run", capsys, callback)
    where = {1: "training diverged at step 5, epoch 2, batch 3 of 3:", 2: "training diverged:"}
    assert where[batch] in message


@pytest.mark.long
def test_the_same_seed_gives_the_same_model(monkeypatch, tmp_path):
    weights = [
        run_tiny(monkeypatch, tmp_path / name, "--seed", seed).get_weights()
        for name, seed in [("a", 5), ("b", 5), ("c", 6)]
    ]
    for a, b in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != c) for a, c in zip(weights[0], weights[2], strict=True))


@pytest.mark.long
def test_overwrite_replaces_a_run_and_its_exports(monkeypatch, tmp_path):
    run_tiny(monkeypatch, tmp_path, "--epochs", 1)
    (tmp_path / "model.onnx").write_text("old")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    run_tiny(monkeypatch, tmp_path, "--epochs", 1, "--overwrite", "--seed", 3)
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 3
    assert not (tmp_path / "model.onnx").exists() and not (tmp_path / "saved_model").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--routing", "best"], "invalid choice: 'best' (choose from"),
        (["--epochs", "0"], "argument --epochs: must be positive and finite, received 0"),
        (["--epochs", "two"], "argument --epochs: invalid int value: 'two'"),
        (["--batch-size", "-3"], "argument --batch-size: must be positive"),
        (["--limit", "0"], "argument --limit: must be positive"),
        (["--learning-rate", "-0.1"], "argument --learning-rate: must be positive"),
        (["--learning-rate", "nan"], "argument --learning-rate: must be positive"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--resume", "--overwrite"], "not allowed with argument"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--output", "/dev/null/ckpt"], "--output /dev/null/ckpt"),
    ],
)
def test_bad_arguments(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, lambda: begin(monkeypatch, *arguments))
    assert not list(tmp_path.iterdir())


def test_folders_that_hold_something(monkeypatch, tmp_path, capsys):
    run_tiny(monkeypatch, tmp_path / "run", "--epochs", 1)
    capsys.readouterr()
    same = ("--synthetic", "--limit", 60, "--output", tmp_path / "run")
    assert "already holds a run" in refused(capsys, lambda: begin(monkeypatch, *same))
    changed = (*same, "--resume", "--seed", 7)
    message = refused(capsys, lambda: begin(monkeypatch, *changed))
    assert "seed was 0, received 7" in message

    resume = lambda: begin(monkeypatch, *same, "--resume")  # noqa: E731
    for name, content in [
        ("model.keras", "no archive"),
        ("history.csv", ""),
        ("backup/state.h5", "no state"),
        ("run.json", '{"arguments": [1]}'),
        ("run.json", "{"),
    ]:
        path = tmp_path / "run" / name
        before = path.read_bytes()
        path.write_text(content)
        assert "cannot be resumed" in refused(capsys, resume), name
        path.write_bytes(before)
    resume()

    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")
    for flag in ([], ["--overwrite"], ["--resume"]):
        arguments = ("--output", tmp_path / "other", *flag)
        assert "holds no run" in refused(capsys, lambda a=arguments: begin(monkeypatch, *a))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]

    (tmp_path / "file").write_text("")
    message = refused(capsys, lambda: begin(monkeypatch, "--output", tmp_path / "file"))
    assert "not a folder" in message


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_that_cannot_be_had(monkeypatch, tmp_path, name):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    arguments = ("--data-dir", tmp_path / "data", "--output", tmp_path / "ckpt")
    result = recipe(name, *arguments)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    if not importlib.util.find_spec("tensorflow"):
        assert f"data holds no {name}.npz, and what tensorflow-datasets has" in result.stderr
        result = recipe(name, *arguments[2:])
        assert result.returncode == 2 and result.stderr.count("\n") == 1
    for way_out in ("network", "--data-dir", f"{name}.npz", "--synthetic", "recipes/digits.py"):
        assert way_out in result.stderr
    assert not (tmp_path / "ckpt").exists() and not (tmp_path / "data").exists()


def run_briefly(tmp_path, name, network, *further):
    """A program's two steps on generated images; returns its model, and what run.json keeps."""
    arguments = ("--synthetic", "--limit", 20, "--batch-size", 8, "--epochs", 1, *further)
    arguments = (*arguments, "--network", network, "--output", tmp_path / "ckpt")
    result = programs.recipe_here(name, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("test accuracy")
    assert "synthetic" in result.stdout.splitlines()[-1]
    run = json.loads((tmp_path / "ckpt/run.json").read_text())
    assert run["arguments"]["network"] == network
    return keras.saving.load_model(tmp_path / "ckpt/model.keras"), run["arguments"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mnist", marks=pytest.mark.long),
        pytest.param("fashion_mnist", marks=pytest.mark.long),
        "cifar10",
    ],
)
def test_reference_networks_on_synthetic_images(tmp_path, name):
    """The whole published network, for two steps, with the papers' training."""
    model, arguments = run_briefly(tmp_path, name, "reference", "--routing", "l1")
    assert arguments["routing"] == "l1" and isinstance(model.optimizer, keras.optimizers.Adam)
    rate = {"mnist": 1e-3, "fashion_mnist": 1e-3, "cifar10": 3e-4}[name]
    schedule = model.optimizer.get_config()["learning_rate"]
    assert schedule["class_name"] == "ExponentialDecay"
    for key, value in [("initial_learning_rate", rate), ("decay_steps", 1000)]:
        assert schedule["config"][key] == value
    assert schedule["config"]["decay_rate"] == 0.96
    assert model.loss.name == "margin" and model.optimizer.weight_decay is None
    conv = model.get_layer("conv")
    if name == "cifar10":
        assert model.decoder is None and model.get_layer("primary_caps").num_capsules == 64
        assert conv.activation is keras.activations.leaky_relu
    else:
        assert model.decoder is not None and (tmp_path / "ckpt/dimensions.png").exists()


@pytest.mark.parametrize("name", [pytest.param("mnist", marks=pytest.mark.long), "cifar10"])
def test_deep_networks_on_synthetic_images(tmp_path, name):
    """The default, with its whitening adapted to the training images, and its pictures."""
    widths = ("--widths", 8, 16, 16)
    model, arguments = run_briefly(tmp_path, name, "deep", *widths, "--routing", "dynamic")
    assert arguments["widths"] == [8, 16, 16] and model.decoder is None
    assert {path.name for path in (tmp_path / "ckpt").iterdir()} == {
        *("model.keras", "run.json", "history.csv", "report.json", "backup"),
        *("curves.png", "confusion.png", "capsules.png", "couplings.png"),
    }
    share = arguments["validation_share"]
    images = data.load(name, limit=20, synthetic=True, validation_share=share)
    layer = type(model.get_layer("whitening"))(name="whitening")
    layer.adapt(images.train[0])
    kernels = [keras.ops.convert_to_numpy(x.kernel) for x in (layer, model.get_layer("whitening"))]
    np.testing.assert_allclose(*kernels, rtol=1e-5)


def test_an_efficient_network_on_synthetic_images(tmp_path):
    model, arguments = run_briefly(tmp_path, "mnist", "efficient")
    assert arguments["routing"] == "self_attention" and model.name == "efficient_capsnet"


@pytest.mark.long
def test_a_recipe_of_ones_own(tmp_path):
    """The one in CONTRIBUTING.md, in a file elsewhere, has 20 lines; its checkpoint exports."""
    text = (RECIPES.parent / "CONTRIBUTING.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in program.splitlines() if line]) <= 20
    (tmp_path / "mine.py").write_text(program)
    arguments = ("--limit", 100, "--epochs", 1, "--output", tmp_path / "ckpt")
    places = os.pathsep.join([str(RECIPES), str(RECIPES.parent)])
    command = [sys.executable, tmp_path / "mine.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": places}
    options = {"capture_output": True, "text": True, "env": environment}
    result = subprocess.run([*map(str, command)], **options)
    assert result.returncode == 0, result.stderr
    run = json.loads((tmp_path / "ckpt/run.json").read_text())
    assert run["recipe"] == "mine" and run["arguments"]["batch_size"] == 16
    model = keras.saving.load_model(tmp_path / "ckpt/model.keras")
    assert type(model.class_layer.routing).__name__ == "EMRouting"


@pytest.mark.long
def test_study_of_iterations(monkeypatch, tmp_path):
    run_tiny(monkeypatch, tmp_path / "ckpt", "--epochs", 1, routing="dynamic")
    study = ("routing_iterations", "--iterations", 6, "--images", 60, "--model")
    result = programs.recipe_here(*study, tmp_path / "ckpt")
    assert result.returncode == 0, result.stderr
    rows = read_csv(tmp_path / "ckpt/routing_iterations.csv")
    assert (tmp_path / "ckpt/routing_iterations.png").exists()
    assert [row[0] for row in rows] == ["iterations", *map(str, range(1, 7))]
    values = {name: column for name, *column in zip(*rows, strict=True)}
    assert float(values["class_agreement"][2]) == 1.0
    assert float(values["entropy"][0]) == pytest.approx(np.log(10), rel=1e-6)
    assert np.diff([float(x) for x in values["objective"]]).max() < 0
    report = json.loads((tmp_path / "ckpt/report.json").read_text())
    assert report["test_images"] == 60
    assert float(values["accuracy"][2]) == pytest.approx(report["test_accuracy"])
    run_tiny(monkeypatch, tmp_path / "again", "--epochs", 1, "--seed", 1, routing="dynamic")
    measured = ("--measurements", tmp_path / "measured.csv")
    result = programs.recipe_here(*study, tmp_path / "again", tmp_path / "ckpt", *measured)
    assert result.returncode == 0, result.stderr
    found = measurements.read(tmp_path / "measured.csv")
    assert not any(map(measurements.faults, found))
    of_third = {row["quantity"]: row for row in found if row["setting"] == "3"}
    assert of_third["class agreement"]["value"] == "100" and of_third["accuracy"]["seeds"] == "2"
    accuracies = [
        100 * json.loads((tmp_path / name / "report.json").read_text())["test_accuracy"]
        for name in ("again", "ckpt")
    ]
    assert float(of_third["accuracy"]["value"]) == pytest.approx(np.mean(accuracies), abs=0.01)
    spread = np.std(accuracies, ddof=1)
    assert float(of_third["accuracy"]["spread"]) == pytest.approx(spread, abs=0.01)
    run_tiny(monkeypatch, tmp_path / "other", "--epochs", 1)
    result = programs.recipe_here(*study, tmp_path / "ckpt", "--data-dir", "flowers")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "error: --data-dir must be left out: " in result.stderr
    result = recipe(*study, tmp_path / "other")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "was trained with DiscriminativeRouting, not dynamic routing" in result.stderr


@pytest.mark.tensorflow
def test_a_damaged_data_folder(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "mnist/3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{")
    assert "cannot be read" in refused(capsys, lambda: data.load("mnist", data_dir=tmp_path))


def test_a_file_is_no_data_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(capsys, lambda: data.load("mnist", data_dir=tmp_path / "file"))
    assert "--data-dir must be a folder" in line


def without(folder, blocked, program, *arguments, **environment):
    """A program that runs where packages are missing, to its refusal; returns the one line."""
    (folder / "sitecustomize.py").write_text(BLOCKER)
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(folder), **environment}
    environment |= {"BLOCKED": blocked, "KERAS_HOME": str(folder / "keras")}
    command = [sys.executable, RECIPES.parent / program, *arguments, "--output", folder / "a/b"]
    options = {"capture_output": True, "text": True, "cwd": folder}
    result = subprocess.run([*map(str, command)], env=environment, **options)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert not (folder / "a").exists()
    return result.stderr


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("module", "package", "program", "arguments"),
    [
        ("tensorflow", "tensorflow", "recipes/digits.py", ()),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                ("sklearn", "scikit-learn", "recipes/digits.py", ()),
                ("scipy", "scipy", "recipes/cifar10.py", ("--synthetic",)),
                ("keras_tuner", "keras-tuner", "recipes/tune.py", ()),
                ("grpc", "grpcio", "recipes/tune.py", ()),
                ("tensorflow", "tensorflow", "recipes/routing_iterations.py", ()),
                ("psutil", "psutil", "benchmarks/soak.py", ()),
                ("tensorflow", "tensorflow", "benchmarks/soak.py", ()),
            ]
        ),
    ],
)
@pytest.mark.parametrize("nameless", [{}, {"NAMELESS": "1"}])
def test_a_missing_package_is_named(tmp_path, module, package, program, arguments, nameless):
    assert named(without(tmp_path, module, program, *arguments, **nameless), package)


@pytest.mark.long
@pytest.mark.tensorflow
def test_matplotlib_is_missed_before_a_training(tmp_path):
    """Though only pictures at its end need it. tests/test_startup.py has one that is broken."""
    assert named(without(tmp_path, "matplotlib", "recipes/digits.py"), "matplotlib")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        pytest.param("recipes/mnist.py", (), marks=pytest.mark.long),
        pytest.param("recipes/loss_study.py", ("--study", "mnist"), marks=pytest.mark.long),
        pytest.param("recipes/reproduce.py", ("table2",), marks=pytest.mark.long),
    ],
)
def test_without_tensorflow_datasets(tmp_path, program, arguments):
    """Keras downloads in its place, where it is not installed. Where it is broken, it is named."""
    line = without(tmp_path, "tensorflow_datasets", program, *arguments)
    assert "data set 'mnist' could not be downloaded (" in line
    for way_out in ("network", "mnist.npz in Keras' own format", "--synthetic", "digits.py"):
        assert way_out in line
    broken = without(tmp_path, "tensorflow_datasets", program, *arguments, NAMELESS="1")
    assert named(broken, "tensorflow-datasets")


@pytest.mark.parametrize(
    ("recipe", "backend", "blocked", "message"),
    [
        ("loss_study", "jax", "", "must be 'tensorflow', or unset. Received: 'jax'"),
        ("digits", "nonsense", "", "'jax' or 'torch', or unset. Received: 'nonsense'"),
        ("digits", "torch", "torch", "KERAS_BACKEND is 'torch', which cannot be imported: unset"),
    ],
)
def test_another_backend(tmp_path, recipe, backend, blocked, message):
    assert message in without(tmp_path, blocked, f"recipes/{recipe}.py", KERAS_BACKEND=backend)


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets"), "scikit-learn"),
        (ImportError("libcudart.so: cannot open", name="tensorflow"), "tensorflow"),
        (ImportError("cannot import name 'x' from 'kcaps'", name="kcaps"), None),
        (ImportError("cannot import name 'x' from 'numpy'", name="numpy"), None),
        (ModuleNotFoundError("No module named 'kcaps.x'", name="kcaps.x"), None),
        (ImportError("no reason"), None),
        (ValueError("of a bug"), None),
    ],
)
def test_errors_of_imports(capsys, error, package):
    """Errors that are no matter of installing are shown as Python shows them."""

    def explained():
        try:
            raise error
        except Exception:
            command.explain(*sys.exc_info())

    if package is None:
        explained()
        shown = capsys.readouterr().err
        assert shown.startswith("Traceback") and shown.endswith(f"{error}\n")
    else:
        assert f"pip install {package}\n" in refused(capsys, explained)


def test_nobody_reads_the_output(monkeypatch, tmp_path, capsys):
    """A closed pipe, as behind `| head -1`, gives one line, in which the folder is not blamed."""

    def closed(batch, logs):
        raise BrokenPipeError(32, "Broken pipe")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=closed)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which the program takes away
    with pytest.raises(SystemExit) as stop:
        fit_tiny(monkeypatch, tmp_path / "run", callback)
    assert stop.value.code == 1
    line = capsys.readouterr().err
    assert line == "error: nobody reads the output any more; --resume goes on after 0 epochs\n"
    with pytest.raises(SystemExit) as stop:
        command.explain(BrokenPipeError, BrokenPipeError(), None)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: nobody reads the output any more\n"


def test_digits_are_split_once_for_all_seeds():
    first, second = data.load("digits"), data.load("digits", limit=100)
    assert [len(part[0]) for part in (first.train, first.validation, first.test)] == [
        1293,
        144,
        360,
    ]
    assert first.train[0].dtype == np.uint8 and first.train[0].max() == 255
    np.testing.assert_array_equal(first.train[0][:90], second.train[0])
    assert len(second.validation[0]) == 10 and len(second.test[0]) == 100
