"""The weights that come with kcaps: measured on test images, shown as a table, and made."""

import dataclasses
import json
import pathlib

import keras
import numpy as np

from export.checkpoint import Checkpoint
from export.command import fail
from harness import tables
from harness.settings import ImageSettings, Settings, option
from kcaps import models
from kcaps.models import pretrained
from pictures_of import data

BATCH = 500
MOST_BYTES = 6 * 10**6  # of a file
LICENCES = {
    "mnist": "CC BY-SA 3.0",
    "fashion_mnist": "MIT",
    "cifar10": "none stated; its authors ask to cite Krizhevsky, 2009",
}
# Arguments of the functions that make the networks, which weights are bound to, by the names of the
# options that set them.
ARGUMENTS = {
    "efficient_capsnet": ("routing",),
    "deep_capsnet": ("routing", "widths", "convolutions"),
}
FIXED = {"efficient_capsnet": {}, "deep_capsnet": {"activation": "quick_gelu"}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(ImageSettings):
    """Settings of `evaluate.py`."""

    weights: list | None = option(
        None, "only these, such as efficient_capsnet/mnist", nargs="+", metavar="NAME"
    )
    output: pathlib.Path | None = option(
        None, "file for the table as CSV", type=pathlib.Path, metavar="FILE"
    )

    def cards(self) -> list[pretrained.Card]:
        """Returns the cards asked for; ends the program where there is no such name."""
        known = {f"{card.architecture}/{card.weights}": card for card in pretrained.cards()}
        for name in self.weights or ():
            if name not in known:
                fail(f"--weights must be of {', '.join(known) or 'none'}. Received: {name}.")
        return [card for name, card in known.items() if name in (self.weights or known)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication(Settings):
    """Settings of `publish.py`."""

    model: pathlib.Path = option(pathlib.Path("ckpt/"), "checkpoint folder", type=pathlib.Path)
    command: str = option(None, "command that trained it", metavar="COMMAND", required=True)
    commit: str = option(None, "commit at which it was trained", metavar="NAME", required=True)
    date: str = option(None, "day of the training", metavar="YYYY-MM-DD", required=True)


def accuracy(card: pretrained.Card, images: data.Images) -> float:
    """Returns the share of test images that a network with the weights of a card gets right."""
    model = getattr(models, card.architecture)(weights=card.weights)
    return accuracy_of(model, images)


def accuracy_of(model: keras.Model, images: data.Images) -> float:
    """Returns the share of test images that a model gets right."""
    inputs, labels = images.test
    return float(np.mean(model.predict(inputs, batch_size=BATCH, verbose=0).argmax(-1) == labels))


def row(card: pretrained.Card, measured: float | None = None) -> dict:
    """Returns a row of the table of weights.

    Args:
        card: Card of the weights.
        measured: The accuracy found now. Defaults to None: there is no such column.
    """
    found = {} if measured is None else {"measured": measured}
    return {
        "network": f'{card.architecture}(weights="{card.weights}")',
        "data": card.data,
        "test_accuracy": card.test_accuracy,
        **found,
        "parameters": card.parameters,
        "megabytes": round(card.path.stat().st_size / 1e6, 2),
        "command": card.command,
        "commit": card.commit,
        "date": card.date,
        "licence": card.licence,
    }


def markdown(rows: list[dict]) -> str:
    """Returns rows of weights as a table in Markdown."""
    shown = []
    for values in rows:
        cells = {name.replace("_", " "): str(value) for name, value in values.items()}
        for name in ("test accuracy", "measured"):
            if name in cells:
                cells[name] = f"{100 * values[name.replace(' ', '_')]:.2f} %"
        cells["parameters"] = f"{values['parameters']:,}"
        shown.append(cells | {name: f"`{cells[name]}`" for name in ("network", "command")})
    return tables.markdown(shown)


def publish(loaded: Checkpoint, asked: Publication, images: data.Images) -> pretrained.Card:
    """Puts the weights of a checkpoint among those that come with kcaps; returns their card.

    The stated accuracy is that of the file, with its kernels of half precision.

    Args:
        loaded: The checkpoint of a network in `ARGUMENTS`.
        asked: Settings of the program.
        images: The images that it was trained on.
    """
    model, name = loaded.model, images.name
    if model.name not in ARGUMENTS:
        fail(f"{asked.model} holds {model.name!r}, which is none of {', '.join(ARGUMENTS)}")
    content = pretrained.to_file(model)
    if len(content) > MOST_BYTES:
        fail(f"the file would have {len(content):,} bytes, more than {MOST_BYTES:,}")
    chosen = {key: loaded.run["arguments"][key] for key in ARGUMENTS[model.name]}
    card = pretrained.Card(
        architecture=model.name,
        weights=name,
        sha256=pretrained.sha256_of(content),
        arguments=chosen | FIXED[model.name],
        input_shape=tuple(model.input_shape[1:]),
        class_names=tuple(images.class_names),
        lengths_of_noise=(),
        test_accuracy=0.0,
        parameters=int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        data=name,
        licence=LICENCES[name],
        command=asked.command,
        commit=asked.commit,
        date=asked.date,
    )
    card.path.write_bytes(content)
    # As users get it, in float32, whatever the precision of the training.
    make = getattr(models, card.architecture)
    published = make(card.input_shape, len(card.class_names), **card.arguments)
    pretrained.fill(published, card)
    lengths = published.predict(pretrained.noise(card.input_shape), verbose=0)[0]
    card = dataclasses.replace(
        card,
        lengths_of_noise=tuple(round(float(length), 5) for length in lengths),
        test_accuracy=accuracy_of(published, images),
    )
    _write(card)
    return card


def _write(card):
    """Puts a card into the table of all, in the place of an older one."""
    key = (card.architecture, card.weights)
    others = [x for x in pretrained.cards() if (x.architecture, x.weights) != key]
    rows = sorted([*others, card], key=lambda x: (x.architecture, x.weights))
    text = json.dumps(list(map(dataclasses.asdict, rows)), indent=1) + "\n"
    tables.write(pretrained.FOLDER / "cards.json", text)
