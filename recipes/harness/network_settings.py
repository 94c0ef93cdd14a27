"""Settings of a program that trains one of several networks, with all that training has to offer.

What is not given comes from the table in `networks.presets`, by data set and network.
"""

import argparse
import dataclasses
import inspect
import itertools

import keras
import numpy as np

from export.command import Parser, fail, non_negative, positive
from harness import optimizers, schedules
from harness.run_folder import Run
from harness.settings import CapsNetSettings, option
from kcaps import losses
from kcaps.layers import Whitening
from networks import presets
from pictures_of import augmentation, data
from pictures_of.batches import Change

LOSSES = ("margin", "spread", "length_cross_entropy")
PRESETS = ("standard", "best")
_ADAPTED_ON = 5000  # images that a layer such as the whitening adapts to


def share(text: str) -> float:
    """Reads an argument that is a share, from 0 on and below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 0 and < 1, received {text}")
    return value


def part(text: str) -> float:
    """Reads an argument that is a share, above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be > 0 and < 1, received {text}")
    return value


def count(text: str) -> int:
    """Reads an argument that is an integer from 0 to 2³¹ - 1."""
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"must be >= 0 and an integer, received {text}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(CapsNetSettings):
    """Settings of a program that trains one of several capsule networks."""

    data_set: str  # by which the table has its values
    network: str = option(
        "deep",
        "reference: the papers'; efficient: of few weights; deep: convolution blocks below the "
        "capsules",
        place="beginning",
        choices=presets.NETWORKS,
    )
    preset: str = option("standard", "best: the long training", place="beginning", choices=PRESETS)
    validation_share: float = option(
        data.VALIDATION_SHARE,
        "of the training images, the last ones, for validation",
        place="images",
        type=part,
        metavar="SHARE",
    )
    widths: list | None = option(
        None, "filters of the deep network's blocks", nargs="+", type=positive(int), metavar="N"
    )
    convolutions: int = option(2, "of a block of the deep network", type=positive(int))
    learning_rate: float = option(1e-3, "the highest", type=positive(float))
    schedule: str = option(
        "constant",
        "of the learning rate: exponential falls to 0.96 in each --decay-steps, linear and cosine "
        "to --final-rate at the end of all --epochs",
        choices=schedules.NAMES,
    )
    warm_up: float = option(
        0.0,
        "share of all steps in which the learning rate rises to the highest",
        type=share,
        metavar="SHARE",
    )
    final_rate: float = option(
        0.0, "share of the learning rate at the end", type=share, metavar="SHARE"
    )
    decay_steps: int = option(1000, "of the exponential schedule", type=positive(int))
    optimizer: str = option(
        "adam",
        "sgd: with Nesterov's momentum; muon: for matrices, and AdamW's step for all else",
        choices=list(presets.OPTIMIZERS),
    )
    momentum: float = option(0.85, "of sgd", type=share)
    routing_rate: float = option(
        1e-5,
        "highest rate of the coupling coefficients of l1 and l2; it follows --schedule",
        type=non_negative,
    )
    penalty_weight: float = option(
        1e-3, "of the coupling coefficients of l1 and l2", type=non_negative
    )
    no_decoder: bool = option(False, "the network rebuilds no images")
    weight_decay: float = option(
        0.0,
        "decoupled: times the learning rate in each step; of kernels alone",
        type=non_negative,
    )
    average_weights: float = option(
        0.0,
        "of the moving average of the weights in a step, such as 0.99: the averaged weights are "
        "validated and saved; 0: no average",
        type=share,
        metavar="DECAY",
    )
    loss: str = option("margin", "of the class lengths", choices=LOSSES)
    label_smoothing: float = option(
        0.0, "share of a label that all classes have in equal parts", type=share
    )
    augment: list = option(
        ("none",),
        "random changes of training images, several if you like",
        nargs="+",
        choices=(*augmentation.NAMES, "none"),
    )
    max_shift: int = option(2, "pixels, of --augment shift", type=positive(int))
    cutout_size: int = option(8, "pixels of a side, of --augment cutout", type=positive(int))
    early_stopping: int = option(
        0,
        "ends training after so many epochs in a row without a lower validation loss; 0: it goes "
        "on to the last one",
        type=count,
        metavar="PATIENCE",
    )
    keep: str = option(
        "best",
        "which model is saved: best: that of the epoch with the lowest validation loss; last: that "
        "of the last epoch, which suits a rate that falls to zero and few images for validation",
        choices=("best", "last"),
    )
    mirror_test: bool = option(
        False, "also test with the outputs of each image and its mirror image averaged"
    )

    @classmethod
    def defaults_for(cls, words: list[str], data_set: str) -> dict:
        preset = given(words, "--preset") or "standard"
        if preset not in PRESETS or not presets.networks_of(data_set, preset):
            preset = "standard"  # The parser refuses it.
        known = presets.networks_of(data_set, preset)
        network = given(words, "--network") or known[0]
        if network not in known and network in presets.networks_of(data_set):
            fail(f"--preset {preset} is of --network {' or '.join(known)}. Received: {network}.")
        network = network if network in known else known[0]
        values = values_of(presets.training_of(data_set, network, preset), words)
        return {"network": network, "preset": preset, **values}

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        data_set = parser.get_default("data_set")
        if len(presets.networks_of(data_set)) == 1:
            parser.refuse(["--network"], None, f"{data_set} has one network")
        if not presets.networks_of(data_set, "best"):
            parser.refuse(["--preset"], None, f"{data_set} has one preset")
        for names, is_unused, reason in (
            (
                "--widths --convolutions",
                lambda args: args.network != "deep",
                "--network deep alone has blocks",
            ),
            (
                "--routing-rate --penalty-weight",
                lambda args: args.routing not in ("l1", "l2"),
                "--routing l1 and l2 alone have coefficients",
            ),
            (
                "--no-decoder",
                lambda args: args.network not in ("reference", "small"),
                "this --network has none",
            ),
            ("--momentum", lambda args: args.optimizer != "sgd", "--optimizer sgd alone takes it"),
            (
                "--final-rate",
                lambda args: args.schedule not in ("linear", "cosine"),
                "--schedule linear and cosine alone have it",
            ),
            (
                "--decay-steps",
                lambda args: args.schedule != "exponential",
                "--schedule exponential alone has them",
            ),
            (
                "--label-smoothing",
                lambda args: not _has_smoothing(args.loss),
                "this --loss has no smoothed labels",
            ),
            ("--max-shift", lambda args: "shift" not in args.augment, "--augment has no shift"),
            ("--cutout-size", lambda args: "cutout" not in args.augment, "--augment has no cutout"),
        ):
            parser.refuse(names.split(), is_unused, reason)

    def __post_init__(self):
        if "none" in self.augment and len(self.augment) > 1:
            fail(f"--augment none goes with no other. Received: {' '.join(self.augment)}.")

    @property
    def run(self) -> Run:
        options = {name: getattr(self, name) for name in ("early_stopping", "keep", "mirror_test")}
        return dataclasses.replace(super().run, **options)

    def load_images(self, name: str) -> data.Images:
        """Returns the images of a name, with the share for validation that is asked for."""
        return super().load_images(name, self.validation_share)

    def change(self, images: data.Images) -> Change | None:
        """Returns the random change of the training images, or None for none."""
        names = [name for name in self.augment if name != "none"]
        return augmentation.named(names, images, self.max_shift, self.cutout_size)

    def compile(
        self,
        model: keras.Model,
        examples: np.ndarray,
        num_examples: int | None = None,
        metrics: tuple = ("accuracy",),
    ) -> None:
        """Compiles a model for its training, and adapts its whitening where it has some.

        Args:
            model: A `kcaps.models.CapsNet`.
            examples: Training images `(n, height, width, channels)`, or some of them.
            num_examples: How many there are in a pass. Defaults to the length of `examples`.
            metrics: As for `keras.Model.compile`.
        """
        adapt(model, examples)
        num_examples = num_examples or len(examples)
        steps = self.epochs * num_examples // min(self.batch_size, num_examples)
        optimizer = optimizers.of(self, model, steps)
        if self.optimizer == "muon":
            own, total = optimizers.count_matrices(model)
            print(f"muon: {own} of {total} weights are in matrices, others take AdamW's step")
        options = optimizers.routing_options(self, model, steps)
        model.compile(optimizer, loss_of(self), metrics=list(map(_metric, metrics)), **options)


def _metric(metric):
    """Returns a metric of Keras as an object, which has its variables before the first step.

    Of a name, Keras would make it within the step, which TensorFlow would then trace twice.
    """
    return keras.metrics.SparseCategoricalAccuracy(metric) if metric == "accuracy" else metric


def adapt(model: keras.Model, examples: np.ndarray) -> None:
    """Adapts the whitening of a model to training images, where it has some.

    Args:
        model: A model of images.
        examples: Training images `(n, height, width, channels)`.
    """
    some = examples[:_ADAPTED_ON]
    for layer in model.layers:
        if isinstance(layer, Whitening):
            # In parts, whose patches take less memory.
            layer.adapt([some[start : start + 500] for start in range(0, len(some), 500)])


def loss_of(values: presets.Training | NetworkSettings) -> keras.losses.Loss:
    """Returns the loss that settings name, with their smoothing of labels."""
    if not values.label_smoothing:
        return losses.get(values.loss)
    return losses.LOSSES[values.loss](label_smoothing=values.label_smoothing)


def values_of(training: presets.Training, words: list[str]) -> dict:
    """Returns the values of a training as those of options.

    Args:
        training: The training.
        words: The command line, whose other optimizer or loss needs other values.
    """
    values = dataclasses.asdict(training)
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    optimizer = given(words, "--optimizer") or training.optimizer
    if optimizer != training.optimizer:
        values |= presets.OPTIMIZERS.get(optimizer, {})
    if not _has_smoothing(given(words, "--loss") or training.loss):
        values["label_smoothing"] = 0.0
    return values


def _has_smoothing(loss):
    """Returns whether the loss of a name takes smoothed labels."""
    kind = losses.LOSSES.get(loss)
    return kind is not None and "label_smoothing" in inspect.signature(kind).parameters


def given(words: list[str], name: str) -> str | None:
    """Returns the value that a command line gives an option, or None."""
    value = None
    for word, following in itertools.pairwise([*words, None]):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value
