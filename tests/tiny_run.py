"""A run of a tiny capsule network in this process, on generated images."""

import sys

import keras

from harness import training
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder


def begin(monkeypatch, *arguments):
    """Returns the settings of a program from its command line."""
    monkeypatch.setattr(sys, "argv", ["recipes/tiny.py", *map(str, arguments)])
    return training.begin("A tiny recipe.", epochs=2, batch_size=16, learning_rate=1e-2)


def run_tiny(monkeypatch, output, *arguments, routing="l2", adjust=None):
    """Trains a network for a moment.

    Args:
        monkeypatch: The fixture.
        output: Checkpoint folder.
        *arguments: Further words of the command line.
        routing: Routing of the class capsules.
        adjust: Function of the compiled model, which is called before it trains.

    Returns:
        The model.
    """
    settings = begin(monkeypatch, "--synthetic", "--limit", 60, "--output", output, *arguments)
    images = settings.load_images("digits")
    image = keras.Input(images.shape, name="image")
    capsules = PrimaryCaps(2, 4, kernel_size=5, strides=2)(keras.layers.Rescaling(1 / 255)(image))
    poses = DigitCaps(10, 4, routing=routing)(capsules)
    model = CapsNet(image, CapsuleLength()(poses), decoder=decoder(10, 4, images.shape, (8,)))
    model.compile(keras.optimizers.Adam(settings.learning_rate), metrics=["accuracy"])
    if adjust:
        adjust(model)
    training.train(model, images, settings.run)
    return model
