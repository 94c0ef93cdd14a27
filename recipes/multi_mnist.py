"""Trains the reference capsule network on pairs of overlapping MNIST digits.

Pictures are made on the fly, of training digits in training and of test digits in the test. A
picture counts as right where both of its digits are found. The decoder rebuilds each digit apart.
"""

import os

from export.command import set_up


def main():
    set_up(start=False)
    import keras

    from harness import distribution, plots, training
    from kcaps.metrics import ExactMatch
    from kcaps.models import capsnet
    from kcaps.routing import DiscriminativeRouting
    from pictures_of import overlap_plots, overlaps

    settings = training.begin(
        __doc__.splitlines()[0], epochs=20, batch_size=128, learning_rate=1e-3
    )
    run = settings.run
    images = settings.load_images("mnist")
    held_out, test = overlaps.held_out(images)
    routing = settings.routing
    if routing in ("l1", "l2"):
        routing = DiscriminativeRouting(routing, penalty_weight=0.001)  # the paper's, for this data
    model = capsnet(test[0].shape[1:], images.num_classes, routing=routing)
    rate = keras.optimizers.schedules.ExponentialDecay(
        settings.learning_rate, decay_steps=20_000, decay_rate=0.96
    )
    metric = ExactMatch(overlaps.PARTS)
    model.compile(keras.optimizers.Adam(rate), metrics=[metric])
    size = min(settings.batch_size, len(images.train[0]))
    batches = overlaps.training_batches(*images.train, settings.seed, size)
    history = training.fit(model, images, run, batches, overlaps.targets(*held_out))
    model = distribution.finish(run.output, model)
    outputs = model.predict(test[0], batch_size=settings.batch_size, verbose=0)
    accuracy = overlaps.exact_match(outputs, test[1])
    training.write_report(run, images, model, history, accuracy, metric.name)
    plots.save(plots.curves(history, metric.name), images, run.output / "curves.png")
    overlap_plots.draw(model, images, test, run.output / "reconstructions.png")
    print(
        f"both digits right in {100 * accuracy:.2f} % of {len(test[0])} pictures of "
        f"{images.title}; checkpoint in {run.output}{os.sep}"
    )


if __name__ == "__main__":
    main()
