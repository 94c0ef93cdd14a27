"""Trains a small capsule network on scikit-learn's 1,797 handwritten digits; no download."""

from export.command import set_up


def main():
    set_up(start=False)
    from harness import training
    from harness.network_settings import NetworkSettings
    from networks import capsnets

    settings = training.begin(__doc__, NetworkSettings, has_folder=False, data_set="digits")
    images = settings.load_images("digits")
    change = settings.change(images)
    model = capsnets.build(settings, images.shape, images.num_classes)
    settings.compile(model, images.train[0])
    training.train(model, images, settings.run, change)


if __name__ == "__main__":
    main()
