"""A run of a small capsule network that a process of its own can take, and be killed in."""

import sys

import keras

from harness import training
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from pictures_of.batches import stream

EPOCHS = 12


def run(output):
    """Begins the run or goes on with it, on real digits: dropout, routing variables, a schedule."""
    sys.argv = ["recipes/small.py", "--output", str(output), "--resume", "--limit", "120"]
    settings = training.begin("A small run.", epochs=EPOCHS, batch_size=16, learning_rate=1e-2)
    images = settings.load_images("digits")
    image = keras.Input(images.shape, name="image")
    x = keras.layers.Dropout(0.2)(keras.layers.Rescaling(1 / 255)(image))
    poses = DigitCaps(10, 4, routing="l2")(PrimaryCaps(2, 4, kernel_size=3, strides=2)(x))
    model = CapsNet(image, CapsuleLength()(poses))
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, EPOCHS * 6)
    model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"], routing_learning_rate=1e-4)
    batches = stream(*images.train, settings.batch_size, settings.seed)
    training.fit(model, images, settings.run, batches, images.validation)
