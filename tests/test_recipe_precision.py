"""`--precision` of recipes: recorded, kept when a run goes on, refused where it has no place."""

import json

import keras
import numpy as np
import pytest

from programs import recipe_here, refused
from reproduction import methods
from tiny_run import begin, run_tiny

HALVES = ("mixed_bfloat16", "mixed_float16")


def check(folder, precision):
    """Checks that a run's files say its precision, and that the saved layers have it."""
    content = json.loads((folder / "run.json").read_text())
    assert content["precision"] == content["arguments"]["precision"] == precision
    # Of float16, Keras loads the optimizer in its own policy only.
    assert keras.config.dtype_policy().name == precision
    model = keras.saving.load_model(folder / "model.keras")
    layers = [layer for layer in model.layers if layer.weights]
    assert len(layers) >= 2
    for layer in layers:
        assert layer.dtype_policy.name == precision, layer.name
        assert layer.compute_dtype == precision.removeprefix("mixed_")
    for variable in model.trainable_variables:
        assert keras.backend.standardize_dtype(variable.dtype) == "float32"
    assert model.predict(np.zeros((2, 8, 8, 1), "float32"), verbose=0).dtype == "float32"


@pytest.mark.long
def test_a_run_goes_on_in_its_precision_alone(monkeypatch, tmp_path, capsys):
    run_tiny(monkeypatch, tmp_path, "--precision", "mixed_bfloat16", "--epochs", 1)
    check(tmp_path, "mixed_bfloat16")
    capsys.readouterr()
    same = ("--synthetic", "--limit", 60, "--output", tmp_path, "--resume")
    for arguments, received in [((), "float32"), (("--precision", HALVES[1]), HALVES[1])]:
        line = refused(capsys, lambda more=arguments: begin(monkeypatch, *same, *more))
        assert f"precision was 'mixed_bfloat16', received '{received}'" in line
    assert begin(monkeypatch, *same, "--precision", HALVES[0]).precision == HALVES[0]
    line = refused(capsys, lambda: begin(monkeypatch, "--precision", "float16"))
    assert "argument --precision: invalid choice: 'float16'" in line


@pytest.mark.long
def test_a_resumed_run_of_float16_equals_an_uninterrupted_one(monkeypatch, tmp_path):
    """Bit for bit, with the scale of the loss and the steps since it changed."""

    def adjust(model):
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        model.optimizer.dynamic_growth_steps = 4  # of the 3 steps of an epoch: it is under way

    def train(folder, *arguments):
        keras.utils.set_random_seed(99)  # which the program sets anew
        arguments = ("--precision", "mixed_float16", *arguments)
        model = run_tiny(monkeypatch, tmp_path / folder, *arguments, adjust=adjust)
        optimizers = model.optimizer, model.routing_optimizer
        variables = [*model.variables, *(v for each in optimizers for v in each.variables)]
        return model, [keras.ops.convert_to_numpy(variable) for variable in variables]

    _, whole = train("whole", "--epochs", 3)
    train("parts", "--epochs", 1)
    model, parts = train("parts", "--epochs", 3, "--resume")
    check(tmp_path / "parts", "mixed_float16")
    assert len(whole) == len(parts)
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, two)
    scale = float(keras.ops.convert_to_numpy(model.optimizer.dynamic_scale))
    assert scale != 2.0**15  # which it began with


@pytest.mark.parametrize(
    ("program", "study", "reason"),
    [
        ("capsule_regression", None, "EM needs float32 at least"),
        ("distorted_mnist", None, "EM needs float32 at least"),
        ("regression_studies", "initialisations", "EM needs float32 at least"),
        ("loss_study", "toy", "networks that are trained side by side compute in float32"),
    ],
)
def test_programs_that_compute_in_float32_refuse_another(tmp_path, program, study, reason):
    arguments = ("--study", study) if study else ()
    arguments += ("--precision", "mixed_bfloat16", "--output", tmp_path / "run")
    result = recipe_here(program, *arguments)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"error: --precision must be left out: {reason}")
    assert "Received: --precision mixed_bfloat16." in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_cells_of_reproduced_tables_have_it(monkeypatch, tmp_path):
    sizes = {"filters": 4, "num_primary_capsules": 2, "decoder_units": (4,)}
    monkeypatch.setitem(methods.CAPSNETS, "cpu", sizes)
    arguments = ("reproduce", "table2", "--tasks", "mnist", "--methods", "l2", "--seeds", 1)
    arguments += ("--epochs", 1, "--synthetic", "--limit", 40, "--output", tmp_path)
    result = recipe_here(*arguments, "--precision", "mixed_bfloat16")
    assert result.returncode == 0, result.stderr
    assert ", mixed_bfloat16" in result.stdout
    content = json.loads((tmp_path / "mnist/l2-0/run.json").read_text())
    assert content["arguments"]["precision"] == content["precision"] == "mixed_bfloat16"
    model = keras.saving.load_model(tmp_path / "mnist/l2-0/model.keras")
    assert model.class_layer.dtype_policy.name == "mixed_bfloat16"
    result = recipe_here(*arguments)
    assert result.returncode == 2 and "is of a study with other arguments" in result.stderr
