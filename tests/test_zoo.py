"""The weights that come with kcaps: what is stated of them holds, and the programs that say so."""

import pathlib
import re

import keras
import numpy as np
import pytest
from PIL import Image

import programs
from export import checkpoint
from export import images as export_images
from export.checkpoint import Checkpoint
from harness import tables
from kcaps import models
from kcaps.models import pretrained
from networks import zoo
from pictures_of import data

CARDS = pretrained.cards()
MOST_BYTES = 15 * 10**6  # of all files


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.architecture}-{card.weights}")
def test_outputs_of_shipped_weights(card):
    model = getattr(models, card.architecture)(weights=card.weights)
    lengths = model.predict(pretrained.noise(card.input_shape), verbose=0)[0]
    np.testing.assert_allclose(lengths, card.lengths_of_noise, atol=2e-4)
    assert len(card.class_names) == len(lengths)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trained == card.parameters


def test_sizes_of_shipped_weights():
    sizes = [card.path.stat().st_size for card in CARDS]
    assert all(size <= zoo.MOST_BYTES for size in sizes) and sum(sizes) <= MOST_BYTES
    files = {path.name for path in pretrained.FOLDER.glob("*.npz")}
    assert files == {card.path.name for card in CARDS}


def test_the_tables_of_weights_are_those_of_the_cards():
    rows = [zoo.row(card) for card in CARDS]
    assert zoo.markdown(rows) in (programs.ROOT / "docs/zoo.md").read_text()
    texts = dict.fromkeys(("network", "data", "command", "commit", "date", "licence"), str)
    measured = tables.read_csv(programs.ROOT / "docs/zoo.csv", texts)
    for row in measured:
        assert row.pop("measured") == pytest.approx(row["test_accuracy"], abs=2e-4)
    assert measured == rows


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.architecture}-{card.weights}")
def test_accuracy_of_shipped_weights(card):
    folder = pathlib.Path.home() / "tensorflow_datasets" / card.data
    if not folder.is_dir():
        pytest.skip(f"{card.data} is not prepared")
    assert zoo.accuracy(card, data.load(card.data)) == pytest.approx(card.test_accuracy, abs=2e-4)


@pytest.fixture
def images():
    return data.load("mnist", limit=60, synthetic=True)


def publish(model, images, **arguments):
    """Puts weights of a model among those that come with kcaps, and returns their card."""
    run = {"arguments": arguments, "data": {"name": images.name}}
    asked = zoo.Publication(recipe="publish", command="python x.py", commit="1234567", date="today")
    return zoo.publish(Checkpoint(pretrained.FOLDER, model, run, ""), asked, images)


@pytest.fixture
def published(tmp_path, monkeypatch, images):
    """Weights of a network that was not trained, among no others."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    keras.utils.set_random_seed(3)
    model = models.efficient_capsnet((28, 28, 1), 10)
    return publish(model, images, routing="self_attention")


def test_published_weights_are_those_of_the_checkpoint(published, images):
    assert pretrained.cards() == [published]
    keras.utils.set_random_seed(3)
    trained = models.efficient_capsnet((28, 28, 1), 10)
    model = models.efficient_capsnet(weights="mnist")
    inputs = images.test[0].astype("float32")
    lengths = [x.predict(inputs, verbose=0) for x in (model, trained)]
    np.testing.assert_allclose(*lengths, atol=2e-3)
    assert published.test_accuracy == zoo.accuracy(published, images)
    assert published.class_names == tuple(images.class_names)
    assert published.parameters == 161_824 and published.licence == "CC BY-SA 3.0"


def test_weights_of_a_mixed_training_are_measured_in_float32(tmp_path, monkeypatch, images):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = models.efficient_capsnet((28, 28, 1), 10)
    keras.config.set_dtype_policy("float32")
    card = publish(mixed, images, routing="self_attention")
    model = models.efficient_capsnet(weights="mnist")
    lengths = model.predict(pretrained.noise(card.input_shape), verbose=0)[0]
    np.testing.assert_allclose(card.lengths_of_noise, lengths, atol=1e-5)


def test_evaluation_measures_again(published, tmp_path):
    path = tmp_path / "table.csv"
    result = programs.recipe_here("evaluate", "--synthetic", "--limit", 60, "--output", path)
    shown = 'efficient_capsnet(weights="mnist")'
    assert f"| `{shown}` | mnist |" in result.stdout and "| 161,824 |" in result.stdout
    texts = dict.fromkeys(("network", "data", "command", "commit", "date", "licence"), str)
    row = tables.read_csv(path, texts)[0]
    assert row["network"] == shown and row["measured"] == row["test_accuracy"]
    assert row["test_accuracy"] == published.test_accuracy


def test_unknown_weights(published):
    result = programs.recipe_here("evaluate", "--weights", "capsnet/mnist")
    assert "--weights must be of efficient_capsnet/mnist. Received: capsnet/mnist" in result.stderr


def test_demo_of_the_site(published, tmp_path, monkeypatch):
    fit = keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **options: fit(*args, epochs=1))
    result = programs.recipe_here("../docs/demo", tmp_path / "demo")
    assert result.returncode == 0, result.stderr
    loaded = checkpoint.load(tmp_path / "demo")
    assert loaded.run["labels"] == list(published.class_names)
    noise = pretrained.noise((28, 28, 1))
    lengths = loaded.model.predict(noise, verbose=0)[0]
    np.testing.assert_allclose(lengths, published.lengths_of_noise, atol=2e-4)
    assert loaded.model.decoder is not None
    found = export_images.of_run(loaded.run, folder=tmp_path / "demo")
    assert found.test.shape == (300, 28, 28, 1) and found.labels[:4].tolist() == [0, 6, 2, 8]


def test_no_demo_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    result = programs.recipe_here("../docs/demo", tmp_path / "demo")
    assert result.returncode == 2 and "no weights of efficient_capsnet for mnist" in result.stderr


@pytest.mark.long
@pytest.mark.tensorflow
def test_the_guide_to_weights(published, tmp_path, monkeypatch, rng):
    """Its examples of fine-tuning run, here for a pass of weights that have learned nothing."""
    deep = models.deep_capsnet((32, 32, 3), 10, widths=(8, 8))
    images = data.load("cifar10", limit=60, synthetic=True)
    publish(deep, images, routing="uniform", widths=[8, 8], convolutions=2)
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        path = tmp_path / "flowers" / f"class {number % 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(40, 50, 3), dtype="uint8")).save(path)
    text = (programs.ROOT / "docs/zoo.md").read_text()
    digits, flowers = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(re.sub(r"epochs=\d+", "epochs=1", digits), names)
    assert len(names["x_test"]) == 1597 and names["model"].output_shape == (None, 10)
    exec(re.sub(r"epochs=\d+", "epochs=1", flowers), names)
    loaded = keras.saving.load_model("flowers.keras")
    assert loaded.output_shape == (None, 5) and 0 <= names["accuracy"] <= 1
