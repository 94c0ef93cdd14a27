"""The picture of overlapping digits, each of which is rebuilt from the capsule of its class."""

import pathlib

import keras
import numpy as np

from harness import plots
from kcaps import visualization
from kcaps.layers import CapsuleMask
from kcaps.models import CapsNet
from pictures_of import data, overlaps

SHOWN = 8


def draw(model: CapsNet, images: data.Images, test: tuple, path: pathlib.Path) -> None:
    """Draws the first test pictures, their digits, and the same two rebuilt from longest capsules.

    Args:
        model: `CapsNet` with a decoder.
        images: Images that the pictures are made of.
        test: Test pictures, labels and parts, from `overlaps.held_out`.
        path: PNG file to be written.
    """
    x, labels, parts = (part[:SHOWN] for part in test)
    found, rebuilt = rebuild(model, x)
    order = np.argsort(labels)
    labels, parts = (np.take_along_axis(labels, order, 1), parts[np.arange(len(x))[:, None], order])
    rows = {
        "picture": x,
        "digits": [_coloured(two) for two in parts],
        "rebuilt": [_coloured(two) for two in rebuilt],
        "together": rebuilt.sum(1),
    }
    captions = {"digits": list(map(str, labels)), "rebuilt": list(map(str, found))}
    title = "Overlapping digits, and each rebuilt from the capsule of its class"
    figure = visualization.image_grid(rows, title, captions=captions, limits=(0, 255))
    plots.save(figure, images, path)


def rebuild(model: CapsNet, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes of the longest capsules, `(b, 2)` in order, and the image of each.

    Images are decoded from the capsule of that class alone, `(b, 2, height, width, channels)`.
    """
    network = keras.Model(model.input, [model.output, model.class_poses])
    lengths, poses = network.predict(x, verbose=0)
    found = np.sort(np.argsort(-lengths)[:, : overlaps.PARTS])
    twice = np.repeat(poses, overlaps.PARTS, axis=0)  # (2 b, j, d)
    masked = keras.ops.convert_to_numpy(CapsuleMask()(twice, labels=found.ravel()))
    rebuilt = model.decoder.predict(masked, verbose=0)
    return found, rebuilt.reshape(*found.shape, *x.shape[1:])


def _coloured(parts):
    """Returns the two digits in red and green, `(height, width, 3)`."""
    first, second = parts[..., 0]
    return np.stack([first, second, np.zeros_like(first)], axis=-1)
