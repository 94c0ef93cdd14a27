"""Trains a small capsule network on scikit-learn's 1,797 handwritten digits; no download."""

import data
import training

import keras
import tensorflow as tf
from keras import layers

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import PIXEL_MAX, decoder


def shift(images, seed):
    """Shifts each image at random by about half a pixel: 1,293 training images are few."""
    offsets = tf.random.stateless_uniform((len(images), 2), seed, -0.55, 0.55)
    one, zero = tf.ones_like(offsets[:, :1]), tf.zeros_like(offsets[:, :1])
    rows = [one, zero, offsets[:, :1], zero, one, offsets[:, 1:], zero, zero]
    return keras.ops.image.affine_transform(images, tf.concat(rows, axis=1))


args = training.begin(__doc__, epochs=30, batch_size=32, learning_rate=2e-3)
images = data.load("digits", args.data_dir, args.limit, args.synthetic)

image = keras.Input(images.shape, name="image")
x = layers.Rescaling(1 / PIXEL_MAX)(image)
x = layers.Conv2D(64, kernel_size=3, activation="relu", kernel_initializer="he_normal")(x)
capsules = PrimaryCaps(num_capsules=8, capsule_dim=8, kernel_size=3)(x)
poses = DigitCaps(images.num_classes, capsule_dim=16, routing=args.routing)(capsules)
model = CapsNet(
    image,
    CapsuleLength(name="class_lengths")(poses),
    decoder=decoder(images.num_classes, 16, images.shape, units=(64, 128)),
    # 0.392 × the mean squared error of pixels in [0, 1], the reference network's weight
    reconstruction_weight=0.392 / 64 / PIXEL_MAX**2,
)

steps = args.epochs * len(images.train[0]) // args.batch_size
rate = keras.optimizers.schedules.CosineDecay(args.learning_rate, max(steps, 1))
model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
training.run(model, images, args, augment=shift)
