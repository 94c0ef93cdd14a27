"""Makes a checkpoint folder of weights that come with kcaps, for a page of the site.

python docs/demo.py build/demo

The network was trained on MNIST and has no decoder. One is put on its capsules, which stay as they
are, and learns to draw scikit-learn's digits: they are there wherever the site is made.
"""

import json
import pathlib
import sys

from export import checkpoint
from export.command import fail, set_up

NETWORK, WEIGHTS = "efficient_capsnet", "mnist"
DIGITS = "digits.npz"
TEST = slice(None, None, 6)  # every sixth digit: 300 that the decoder does not learn from


def main() -> None:
    """Writes what `export.web` needs into the folder that the first argument names."""
    set_up()
    from kcaps.models import pretrained

    cards = {(card.architecture, card.weights): card for card in pretrained.cards()}
    card = cards.get((NETWORK, WEIGHTS))
    if card is None:
        fail(f"no weights of {NETWORK} for {WEIGHTS} come with kcaps yet")
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    train, test = digits()
    write_digits(folder / DIGITS, train, test)
    with_decoder(train).save(folder / "model.keras")
    title = "MNIST; the decoder and the pictures below: scikit-learn's digits"
    data = {"name": "digits", "title": title, "loader": "npz", "file": DIGITS}
    run = checkpoint.run_content(card.command, data, list(card.class_names))
    report = {"test_accuracy": card.test_accuracy}
    for name, content in (("run.json", run), ("report.json", report)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def digits():
    """Returns scikit-learn's digits as large as those of MNIST: two pairs of images and labels."""
    import keras
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32").reshape(-1, 8, 8, 1) * 255 / 16
    images = keras.ops.image.resize(images, (20, 20), interpolation="bicubic")
    images = np.clip(keras.ops.convert_to_numpy(images), 0, 255).round().astype("uint8")
    images = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    is_test = np.zeros(len(labels), bool)
    is_test[TEST] = True
    return (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])


def write_digits(path, train, test):
    """Writes digits as a file in Keras' format."""
    import numpy as np

    arrays = {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1]}
    np.savez_compressed(path, **arrays)


def with_decoder(train):
    """Returns the network with a decoder that has learned to draw the training images."""
    import keras

    from kcaps import models

    keras.utils.set_random_seed(0)
    model = getattr(models, NETWORK)(weights=WEIGHTS, decoder_units=(256, 512))
    for layer in model.layers:
        layer.trainable = layer is model.decoder
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(*train, epochs=30, verbose=0)
    return model


if __name__ == "__main__":
    main()
