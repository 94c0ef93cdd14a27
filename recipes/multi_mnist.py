"""Trains the reference capsule network on pairs of overlapping MNIST digits.

Pictures are made on the fly, of training digits in training and of test digits in the test. A
picture counts as right where both of its digits are found. The decoder rebuilds each digit apart.
"""

import os

import data
import distribution
import training

import keras
import numpy as np
from matplotlib import pyplot as plt

import overlaps
import pictures
from kcaps.metrics import ExactMatch
from kcaps.models import capsnet
from kcaps.routing import DiscriminativeRouting

SHOWN = 8


def reconstructions(model, x, labels, parts):
    """Pictures, their digits, and the same two rebuilt from the capsules that are longest."""
    network = keras.Model(model.input, [model.output, model.class_layer.output])
    lengths, poses = network.predict(x, verbose=0)
    found = np.sort(np.argsort(-lengths)[:, : overlaps.PARTS])  # classes, in order
    order = np.argsort(labels)
    labels, parts = (np.take_along_axis(labels, order, 1), parts[np.arange(len(x))[:, None], order])
    masks = np.eye(lengths.shape[1])[found][..., None]  # (b, 2, j, 1)
    masked = (masks * poses[:, None]).reshape(-1, *poses.shape[1:])
    rebuilt = model.decoder.predict(masked, verbose=0).reshape(parts.shape)
    figure, axes = plt.subplots(4, len(x), figsize=(1.1 * len(x), 5), layout="constrained")
    figure.suptitle("Overlapping digits, and each rebuilt from the capsule of its class")
    for column in range(len(x)):
        pictures.show(axes[0, column], x[column])
        pictures.show(axes[1, column], coloured(parts[column]))
        pictures.show(axes[2, column], coloured(rebuilt[column]))
        pictures.show(axes[3, column], rebuilt[column].sum(0))
        axes[1, column].set_xlabel(f"{labels[column]}", fontsize=8)
        axes[2, column].set_xlabel(f"{found[column]}", fontsize=8)
    for axis, name in zip(axes[:, 0], ("picture", "digits", "rebuilt", "together"), strict=True):
        axis.set_ylabel(name)
    return figure


def coloured(parts):
    """The two digits in red and green, `(height, width, 3)`."""
    first, second = parts[..., 0]
    return np.stack([first, second, np.zeros_like(first)], axis=-1)


args = training.begin(__doc__.splitlines()[0], epochs=20, batch_size=128, learning_rate=1e-3)
images = data.load("mnist", args.data_dir, args.limit, args.synthetic)
held_out, test = map(overlaps.held_out, (images.validation, images.test))
routing = args.routing
if routing in ("l1", "l2"):
    routing = DiscriminativeRouting(routing, penalty_weight=0.001)  # the paper's, for this data
model = capsnet(test[0].shape[1:], images.num_classes, routing=routing)
rate = keras.optimizers.schedules.ExponentialDecay(
    args.learning_rate, decay_steps=20_000, decay_rate=0.96
)
metric = ExactMatch(overlaps.PARTS)
model.compile(keras.optimizers.Adam(rate), metrics=[metric])
size = min(args.batch_size, len(images.train[0]))


def batches(first_step):
    return overlaps.overlapping(*images.train, args.seed, size, first_step).map(overlaps.targets)


history, seconds = training.fit(
    model, images, args, batches, len(images.train[0]) // size, overlaps.targets(*held_out)
)
model = distribution.finish(args, model)
outputs = model.predict(test[0], batch_size=args.batch_size, verbose=0)
accuracy = overlaps.exact_match(outputs, test[1])
training.write_report(args, images, model, history, seconds, accuracy, metric.name)
pictures.save(pictures.curves(history, metric.name), images, args.output / "curves.png")
figure = reconstructions(model, *(part[:SHOWN] for part in test))
pictures.save(figure, images, args.output / "reconstructions.png")
print(
    f"both digits right in {100 * accuracy:.2f} % of {len(test[0])} pictures of {images.title}; "
    f"checkpoint in {args.output}{os.sep}"
)
