"""Trains the reference capsule network on CIFAR-10: 64 types, LeakyReLU, no decoder."""

from export.command import set_up


def main():
    set_up(start=False)
    import keras

    from harness import training
    from kcaps.models import capsnet

    settings = training.begin(__doc__, epochs=20, batch_size=32, learning_rate=3e-4)
    images = settings.load_images("cifar10")
    model = capsnet(
        images.shape,
        images.num_classes,
        routing=settings.routing,
        num_primary_capsules=64,
        activation="leaky_relu",
        decoder_units=None,
    )
    rate = keras.optimizers.schedules.ExponentialDecay(
        settings.learning_rate, decay_steps=1000, decay_rate=0.96
    )
    model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"])
    training.train(model, images, settings.run)


if __name__ == "__main__":
    main()
