"""Trains the reference capsule network on Fashion-MNIST."""

from export.command import set_up


def main():
    set_up(start=False)
    import keras

    from harness import training
    from kcaps.models import capsnet

    settings = training.begin(__doc__, epochs=10, batch_size=128, learning_rate=1e-3)
    images = settings.load_images("fashion_mnist")
    model = capsnet(images.shape, images.num_classes, routing=settings.routing)
    rate = keras.optimizers.schedules.ExponentialDecay(
        settings.learning_rate, decay_steps=1000, decay_rate=0.96
    )
    model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
    training.train(model, images, settings.run)


if __name__ == "__main__":
    main()
