"""Search spaces of models: what `tune.py` varies, and how each model is trained.

The defaults of a space are the values that other recipes or papers have set by hand.
"""

import dataclasses
import os

import keras
import keras_tuner
import numpy as np

from harness import run_folder, training
from kcaps import routing
from kcaps.regression import CapsuleRegression, ThresholdSchedule
from kcaps.regression.architectures import ARCHITECTURES
from networks.baselines import baselines as networks
from networks.small_capsnet import shift, small_capsnet
from regression import pictures as regression_pictures
from regression import training as regression_training
from reproduction import methods

ROUTED = "_routing"  # after the name of a routing: a model of reproduce.py with it
PENALISED = ("l1", "l2")
ITERATED = ("dynamic", "em", "inverted_attention")
SPANS = {"penalty_weight": (1e-5, 1e-1), "inverse_temperature": (1e-2, 1e1)}


class _ImageHyperModel(keras_tuner.HyperModel):
    """Space of classifiers of images.

    Subclasses have `build(hp)`, which returns a compiled model that is built. Training ends with
    the weights that were best on the validation images; the test images are read by `retrain`
    only.

    Args:
        images: `data.Images`.
        args: Arguments of the program: `epochs`, `batch_size`, `seed`, `output`.
    """

    as_published = False  # the order and the share of validation images, as for `data.load`

    def __init__(self, images, args):
        super().__init__()
        self.images, self.args = images, args

    @classmethod
    def defaults(cls, args):
        """Passes over the data, and the batch size, where the program is given none."""
        return cls.epochs, cls.batch_size

    def fit(self, hp, model, seed=0):
        """Trains the model of a trial.

        Returns:
            Dict of `val_accuracy` and `val_loss` of the weights that `retrain` would keep, the
            loss without penalties.

        Raises:
            keras_tuner.errors.FailedTrialError: if the training diverges.
        """
        raise NotImplementedError

    def retrain(self, hp, report):
        """Trains a model as the first execution of its trial was, and fills `args.output`.

        Args:
            hp: Values of a trial.
            report: Dict of further numbers for `report.json`.
        """
        raise NotImplementedError

    def _epochs(self, hp):
        """The epochs that Hyperband gives the trial, where it does."""
        return hp.values.get("tuner/epochs", self.args.epochs)


class _NetworkHyperModel(_ImageHyperModel):
    """Space of networks that are trained by gradient steps."""

    augment = None

    def fit(self, hp, model, seed=0):
        count = len(self.images.train[0])
        size = min(self.args.batch_size, count)
        steps = count // size
        history = model.fit(
            training.stream(*self.images.train, size, seed, augment=self.augment),
            epochs=self._epochs(hp),
            steps_per_epoch=steps,
            shuffle=False,  # the batches are shuffled already
            validation_data=self.images.validation,
            validation_batch_size=self.args.batch_size,
            callbacks=[keras.callbacks.TerminateOnNaN()],
            verbose=0,
        ).history
        return _measured(history, np.argmin)

    def retrain(self, hp, report):
        keras.utils.set_random_seed(self.args.seed)
        training.run(self.build(hp), self.images, self.args, self.augment, report)


class CapsNetHyperModel(_NetworkHyperModel):
    """Small capsule networks; the defaults are those of `digits.py`."""

    epochs, batch_size = 10, 32

    def __init__(self, images, args):
        super().__init__(images, args)
        self.augment = shift if images.name == "digits" else None

    def build(self, hp):
        name = hp.Choice("routing", list(routing.ROUTINGS), default="dynamic")
        options, rate, steps = {}, None, 1
        with hp.conditional_scope("routing", list(PENALISED)):
            if name in PENALISED:
                weight = hp.Float("penalty", 1e-5, 1e-1, sampling="log", default=1e-3)
                options = {"penalty": name, "penalty_weight": weight}
                rate = hp.Float("routing_rate", 1e-6, 1e-4, sampling="log", default=1e-5)
                steps = hp.Choice("routing_steps", [1, 2, 3])
        with hp.conditional_scope("routing", list(ITERATED)):
            if name in ITERATED:
                options = {"num_iterations": hp.Choice("iterations", [1, 2, 3, 4], default=3)}
        capsule_dim = hp.Choice("capsule_dim", [4, 8, 16, 32], default=16)
        optimizer = self._optimizer(hp)

        class_routing = routing.ROUTINGS[name](**options)
        network = small_capsnet(
            self.images.shape, self.images.num_classes, class_routing, capsule_dim
        )
        network.compile(
            optimizer, metrics=["accuracy"], routing_learning_rate=rate, routing_steps=steps
        )
        return network

    def _optimizer(self, hp):
        name = hp.Choice("optimizer", ["adam", "rmsprop", "sgd"])
        with hp.conditional_scope("optimizer", ["adam", "rmsprop"]):
            if name != "sgd":
                rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log", default=2e-3)
        with hp.conditional_scope("optimizer", ["sgd"]):
            if name == "sgd":  # needs larger steps
                rate = hp.Float("sgd_learning_rate", 1e-2, 1.0, sampling="log", default=1e-1)
        steps = self._epochs(hp) * len(self.images.train[0]) // self.args.batch_size
        rate = keras.optimizers.schedules.CosineDecay(rate, max(steps, 1))
        if name == "sgd":
            return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
        return {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}[name](rate)


class ReproducedHyperModel(_NetworkHyperModel):
    """Rates and options of what `reproduce.py` compares, in its networks without a decoder.

    `args.model` is `"cnn"`, `"efficient_capsnet"`, or the name of a routing with `"_routing"` after
    it; `args.budget` is that of the networks.
    """

    def __init__(self, images, args):
        super().__init__(images, args)
        self.method = self._method(args)

    @staticmethod
    def _method(args):
        name = args.model.removesuffix(ROUTED)
        return name if name == args.model else f"{name}{methods.NO_DECODER}"

    @classmethod
    def defaults(cls, args):
        plan = methods.training_of(cls._method(args), args.data, args.budget)
        return plan.epochs, plan.batch_size

    def build(self, hp):
        def value(name, low, high, default):
            return hp.Float(name, low, high, sampling="log", default=default)

        images, budget = self.images, self.args.budget
        plan = methods.training_of(self.method, images.name, budget)
        rates = {"rate": value("learning_rate", 3e-4, 1e-2, plan.rate)}
        options = {
            option: value(option, *SPANS[option], default)
            for option, default in methods.options_of(self.method, images.name).items()
        }
        if plan.routing_rate:
            rates["routing_rate"] = value("routing_rate", 1e-7, 1e-4, plan.routing_rate)
        network = methods.build(
            self.method, images.name, budget, images.shape, images.num_classes, options
        )
        batch_size = min(self.args.batch_size, len(images.train[0]))
        steps = self._epochs(hp) * (len(images.train[0]) // batch_size)
        dataclasses.replace(plan, **rates).compile(network, steps, ["accuracy"])
        return network


class MLPHyperModel(_NetworkHyperModel):
    """Perceptrons of two hidden layers; the space and the best values of Daza's Table 1."""

    epochs, batch_size = 18, 200  # about 4,000 steps on CIFAR-10

    def build(self, hp):
        units = hp.Choice("units", [400, 600, 1000], default=600)
        weight_decay = hp.Choice("weight_decay", [0.1, 0.01, 0.001], default=0.1)
        dropout = hp.Choice("dropout", [0.1, 0.2, 0.5], default=0.1)
        learning_rate = hp.Choice("learning_rate", [1e-3, 5e-4, 1e-4], default=1e-4)

        network = networks.mlp(
            self.images.shape,
            self.images.num_classes,
            units=[units, 400],
            dropout=dropout,
            weight_decay=weight_decay,
            kernel_initializer=networks.TORCH_INITIALIZER,
            mean=self.images.train[0].mean(0),
        )
        network.compile(
            keras.optimizers.Adam(learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[
                "accuracy",
                # without the penalty of weight decay, which is in the loss
                keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
            ],
        )
        return network


class CapsuleRegressionHyperModel(_ImageHyperModel):
    """Capsule regression by EM, in rounds; the defaults are those of `capsule_regression.py`."""

    epochs, batch_size = 20_000, 2000  # iterations of EM, which ends by itself
    as_published = True

    def __init__(self, images, args):
        super().__init__(images, args)
        self.encoders = {}

    def build(self, hp):
        pixels = int(np.prod(self.images.shape))
        usual = min(max(32, pixels // 4), pixels)
        capsule_dim = hp.Choice("capsule_dim", [1, 2, 4, 8, 16], default=2)
        architecture = hp.Choice("architecture", list(ARCHITECTURES), default="multiclass")
        counts = sorted({usual // 2, usual, min(2 * usual, pixels)})
        components = hp.Choice("components", counts, default=usual)
        momentum = hp.Choice("momentum", [0.0, 0.5, 0.9], default=0.9)
        ridge = hp.Choice("ridge", [0.0, 1e-3, 1e-2, 1e-1, 1.0], default=0.0)

        if components not in self.encoders:
            self.encoders[components] = regression_training.make_encoder(self.images, components)
        encoder = self.encoders[components]
        model = CapsuleRegression(
            self.images.num_classes, capsule_dim, architecture, encoder=encoder
        )
        model.compile(metrics=["accuracy"], momentum=momentum, ridge=ridge)
        model.adapt(*self.images.train)
        return model

    def fit(self, hp, model, seed=0):
        history = model.fit(
            *self.images.train,
            epochs=self._epochs(hp),
            validation_data=self.images.validation,
            callbacks=[ThresholdSchedule()],
            verbose=0,
        ).history
        history["val_accuracy"] = [1 - error for error in history["val_error"]]
        return _measured(history, lambda _: np.argmin(history["val_error"]))

    def retrain(self, hp, report):
        args, images = self.args, self.images
        keras.utils.set_random_seed(args.seed)
        model = self.build(hp)
        run_folder.open_folder(args, images, lambda output: 0)
        logger = keras.callbacks.CSVLogger(args.output / "history.csv")
        row = regression_training.fit(
            args, images, model, ThresholdSchedule(verbose=True), [logger]
        )
        regression_training.finish(args, images, model, row, report)
        history = run_folder.read_history(args.output / "history.csv")
        regression_pictures.draw(model, images, history, args.output)
        accuracy = 100 * (1 - row["test_error"])
        print(
            f"test accuracy {accuracy:.2f} % on {images.title}; checkpoint in {args.output}{os.sep}"
        )


def _measured(history, choose):
    """Validation figures of the epoch that `choose` picks by the losses."""
    losses = history["val_loss"]
    if not (np.isfinite(history["loss"]).all() and np.isfinite(losses).all()):
        raise keras_tuner.errors.FailedTrialError("training diverged")
    best = int(choose(losses))
    compared = history.get("val_cross_entropy", losses)[best]
    return {"val_accuracy": float(history["val_accuracy"][best]), "val_loss": float(compared)}


REPRODUCED = (*(f"{name}{ROUTED}" for name in routing.ROUTINGS), "cnn", "efficient_capsnet")
HYPERMODELS = {
    "capsnet": CapsNetHyperModel,
    "capsule_regression": CapsuleRegressionHyperModel,
    "mlp": MLPHyperModel,
    **dict.fromkeys(REPRODUCED, ReproducedHyperModel),
}
