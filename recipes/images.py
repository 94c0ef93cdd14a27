"""Trains a capsule network on your own pictures: a folder with a folder of them for each class."""

from export.command import set_up


def main():
    set_up(start=False)
    from harness import training
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
    training.finish(model, images, run, history)


if __name__ == "__main__":
    main()
