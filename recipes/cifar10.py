"""Trains the reference capsule network on CIFAR-10: 64 types, LeakyReLU, no decoder."""

import keras

from harness import training
from kcaps.models import capsnet
from pictures_of import data

args = training.begin(__doc__, epochs=20, batch_size=32, learning_rate=3e-4)
images = data.load("cifar10", args.data_dir, args.limit, args.synthetic)
model = capsnet(
    images.shape,
    images.num_classes,
    routing=args.routing,
    num_primary_capsules=64,
    activation="leaky_relu",
    decoder_units=None,
)
rate = keras.optimizers.schedules.ExponentialDecay(
    args.learning_rate, decay_steps=1000, decay_rate=0.96
)
model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
training.run(model, images, args)
