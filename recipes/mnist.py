"""Trains the reference capsule network on MNIST."""

import keras

from harness import training
from kcaps.models import capsnet
from pictures_of import data

args = training.begin(__doc__, epochs=10, batch_size=32, learning_rate=1e-3)
images = data.load("mnist", args.data_dir, args.limit, args.synthetic)
model = capsnet(images.shape, images.num_classes, routing=args.routing)
rate = keras.optimizers.schedules.ExponentialDecay(
    args.learning_rate, decay_steps=1000, decay_rate=0.96
)
model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
training.run(model, images, args)
