"""Trains a small capsule network on scikit-learn's 1,797 handwritten digits; no download."""

from export.command import set_up


def main():
    set_up(start=False)
    import keras

    from harness import training
    from networks.small_capsnet import SHIFT, small_capsnet

    settings = training.begin(
        __doc__, has_folder=False, epochs=30, batch_size=32, learning_rate=2e-3
    )
    images = settings.load_images("digits")
    model = small_capsnet(images.shape, images.num_classes, routing=settings.routing)
    steps = settings.epochs * len(images.train[0]) // settings.batch_size
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, max(steps, 1))
    model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
    training.train(model, images, settings.run, SHIFT)


if __name__ == "__main__":
    main()
