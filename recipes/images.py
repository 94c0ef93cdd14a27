"""Trains a capsule network on your own pictures: a folder with a folder of them for each class."""

import os

from export.command import set_up


def main():
    set_up(start=False)
    from sklearn.metrics import balanced_accuracy_score

    from harness import distribution, plots, training
    from harness.folder_settings import FolderSettings
    from pictures_of import class_weights, folder_images
    from pictures_of.batches import stream

    asked = training.begin(__doc__, FolderSettings, data_set="images")
    images = asked.load_images()
    folder_images.check_same(asked.run, images)
    settings = asked.fitted(images)
    run, change = settings.run, settings.change(images)
    model = settings.build(images)
    settings.compile(model, images.train[0])
    size = min(run.batch_size, len(images.train[0]))
    batches, validation = stream(*images.train, size, run.seed, change), images.validation
    weights = settings.weights_of_classes(images)
    if weights is not None:
        batches = class_weights.weighted(batches, weights)
        validation = (*validation, weights[validation[1]])
    folder_images.keep(run, images, model)
    history = training.fit(model, images, run, batches, validation)
    model = distribution.finish(run.output, model)

    def accuracy_of(outputs):
        return float((outputs.argmax(-1) == images.test[1]).mean())

    lengths = model.predict(images.test[0], batch_size=run.batch_size, verbose=0)
    accuracy = accuracy_of(lengths)
    further = training.with_mirror_images(run, model, images.test[0], lengths, accuracy_of)
    balanced = balanced_accuracy_score(images.test[1], lengths.argmax(-1))
    report = {**further, "test_balanced_accuracy": float(balanced)}
    training.write_report(run, images, model, history, accuracy, further=report)
    plots.draw(model, images, lengths, history, run.output)
    print(
        f"test accuracy {100 * accuracy:.2f} %{training.in_words(further)} on "
        f"{len(images.test[0])} test images of {images.title}; checkpoint in {run.output}{os.sep}"
    )


if __name__ == "__main__":
    main()
