"""Fits capsule regression by EM, as published: subspace, rounds of thresholds, momentum."""

import os

from export.command import set_up


def main():
    set_up(start=False)
    from harness import run_folder
    from harness.training import begin
    from pictures_of.data import PUBLISHED_VALIDATION_SHARE
    from regression import training
    from regression.settings import RegressionSettings

    settings = begin(__doc__, RegressionSettings, epochs=20_000)
    run = settings.run
    if run.resume:
        training.open_schedule(run.output)  # refuses what is damaged before anything is done
    images = settings.load_images(validation_share=PUBLISHED_VALIDATION_SHARE)
    if settings.distorted:
        images = training.with_distorted(images, settings.distorted, settings.seed)
    encoder = training.make_encoder(images, settings.components)
    model = training.make_model(
        images,
        encoder,
        settings.architecture,
        settings.capsule_dim,
        settings.momentum,
        settings.ridge,
    )
    run_folder.open_folder(run, images, training.epochs_done)
    print(f"{run.recipe}: {images.title}, {len(images.train[0])} training images", flush=True)
    if settings.sweep:
        row = training.sweep(settings, images, encoder)
    else:
        row = training.fit_in_folder(run, images, model)
    print(
        f"test accuracy {100 * (1 - row['test_error']):.2f} % on {images.title} "
        f"({row['architecture']}, capsules of {row['capsule_dim']}); checkpoint in "
        f"{run.output}{os.sep}"
    )


if __name__ == "__main__":
    main()
