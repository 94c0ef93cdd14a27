"""Trains the reference capsule network on pairs of overlapping MNIST digits.

Pictures are made on the fly, of training digits in training and of test digits in the test. A
picture counts as right where both of its digits are found. The decoder rebuilds each digit apart.
"""

import os

import keras

from harness import distribution, plots, training
from kcaps.metrics import ExactMatch
from kcaps.models import capsnet
from kcaps.routing import DiscriminativeRouting
from pictures_of import data, overlap_plots, overlaps

args = training.begin(__doc__.splitlines()[0], epochs=20, batch_size=128, learning_rate=1e-3)
images = data.load("mnist", args.data_dir, args.limit, args.synthetic)
held_out, test = overlaps.held_out(images)
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
plots.save(plots.curves(history, metric.name), images, args.output / "curves.png")
overlap_plots.draw(model, images, test, args.output / "reconstructions.png")
print(
    f"both digits right in {100 * accuracy:.2f} % of {len(test[0])} pictures of {images.title}; "
    f"checkpoint in {args.output}{os.sep}"
)
