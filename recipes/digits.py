"""Trains a small capsule network on scikit-learn's 1,797 handwritten digits; no download."""

import keras

from harness import training
from networks.small_capsnet import shift, small_capsnet
from pictures_of import data

args = training.begin(__doc__, epochs=30, batch_size=32, learning_rate=2e-3, has_folder=False)
images = data.load("digits", limit=args.limit, synthetic=args.synthetic)
model = small_capsnet(images.shape, images.num_classes, routing=args.routing)
steps = args.epochs * len(images.train[0]) // args.batch_size
rate = keras.optimizers.schedules.CosineDecay(args.learning_rate, max(steps, 1))
model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
training.run(model, images, args, augment=shift)
