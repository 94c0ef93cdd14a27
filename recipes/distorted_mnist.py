"""Fits capsule regression by EM to distorted MNIST digits, fresh ones for every few iterations.

The stream of distorted digits is taken in chunks. Each chunk gives `--epochs` iterations of EM,
which go on with the momentum of those before. The model with the lowest validation error, on digits
that are not distorted, is kept.
"""

from export.command import set_up


def main():
    set_up(start=False)
    from harness import plots, run_folder
    from harness.training import begin
    from pictures_of.data import PUBLISHED_VALIDATION_SHARE
    from regression import distorted, pictures
    from regression.settings import DistortedSettings

    settings = begin(__doc__, DistortedSettings, epochs=10)
    output = settings.output
    images = settings.load_images("mnist", PUBLISHED_VALIDATION_SHARE)
    model = distorted.make_model(settings, images)
    run_folder.open_folder(settings.run, images)
    print(f"{settings.recipe}: {images.title}, {len(images.train[0])} training images", flush=True)
    plots.save(pictures.distortions(images, settings.seed), images, output / "distorted.png")
    rows = distorted.train(settings, images, model)
    best = distorted.finish(settings, images, model, rows)
    plots.save(pictures.error_by_examples(rows), images, output / "error_by_examples.png")
    print(
        f"test accuracy {100 * (1 - best['test_error']):.2f} % on {images.title} "
        f"({best['examples']:,} distorted digits); checkpoint in {output}/"
    )


if __name__ == "__main__":
    main()
