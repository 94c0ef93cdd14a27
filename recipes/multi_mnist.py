"""Trains a capsule network on pairs of overlapping MNIST digits.

Pictures are made on the fly, of training digits in training and of test digits in the test. A
picture counts as right where both of its digits are found. A decoder, which the reference network
has, rebuilds each digit apart.
"""

import os

from export.command import set_up


def main():
    set_up(start=False)
    from harness import distribution, training
    from harness.network_settings import NetworkSettings
    from kcaps.metrics import ExactMatch
    from networks import capsnets
    from pictures_of import overlaps

    settings = training.begin(__doc__.splitlines()[0], NetworkSettings, data_set="multi_mnist")
    run = settings.run
    images = settings.load_images("mnist")
    held_out, test = overlaps.held_out(images)
    model = capsnets.build(settings, test[0].shape[1:], images.num_classes)
    metric = ExactMatch(overlaps.PARTS)
    size, change = min(settings.batch_size, len(images.train[0])), settings.change(images)
    batches = overlaps.training_batches(*images.train, settings.seed, size, change)
    settings.compile(model, batches(0)[0], batches.count, metrics=(metric,))
    history = training.fit(model, images, run, batches, overlaps.targets(*held_out))
    model = distribution.finish(run.output, model)

    def accuracy_of(outputs):
        return overlaps.exact_match(outputs, test[1])

    outputs = model.predict(test[0], batch_size=settings.batch_size, verbose=0)
    accuracy = accuracy_of(outputs)
    further = training.with_mirror_images(run, model, test[0], outputs, accuracy_of)
    training.write_report(run, images, model, history, accuracy, metric.name, further)
    # Now, because their packages take longer to import than all else before the first step.
    from harness import plots
    from pictures_of import overlap_plots

    plots.save(plots.curves(history, metric.name), images, run.output / "curves.png")
    if model.decoder is not None:
        overlap_plots.draw(model, images, test, run.output / "reconstructions.png")
    print(
        f"both digits right in {100 * accuracy:.2f} %{training.in_words(further)} of "
        f"{len(test[0])} pictures of {images.title}; checkpoint in {run.output}{os.sep}"
    )


if __name__ == "__main__":
    main()
