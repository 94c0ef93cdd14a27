"""Pictures of two overlapping images of different classes, as MultiMNIST has them."""

import numpy as np

RECIPE = "multi_mnist"  # whose networks are for such pictures
SHIFT = 4  # pixels at most, to every side


def overlapped(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture for each image: with the next one of another class on top of it.

    Both are shifted, on a canvas that is wider by `SHIFT` on every side, and added; sums beyond 255
    are cut. The shifts are the same every time.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        labels: Integer array `(n,)`.

    Returns:
        uint8 pictures `(n, height + 2 SHIFT, width + 2 SHIFT, channels)`, and the classes `(n, 2)`
        of what is in them.

    Raises:
        ValueError: if all images are of one class.
    """
    labels = np.asarray(labels)
    partners = np.roll(np.arange(len(labels)), -1)
    while np.any(same := labels[partners] == labels):
        if np.all(labels == labels[0]):
            raise ValueError("`labels` must have two classes at least.")
        partners[same] = (partners[same] + 1) % len(labels)
    count, height, width, channels = images.shape
    size = (count, height + 2 * SHIFT, width + 2 * SHIFT, channels)
    sums = np.zeros(size, "uint16")
    corners = np.random.default_rng(0).integers(0, 2 * SHIFT + 1, size=(2, count, 2))
    for members, places in zip((np.arange(count), partners), corners, strict=True):
        for picture, image, (top, left) in zip(sums, images[members], places, strict=True):
            picture[top : top + height, left : left + width] += image
    return np.minimum(sums, 255).astype("uint8"), np.stack([labels, labels[partners]], axis=1)
