"""Digits distorted at random: rotated, stretched, sheared, shifted, bent, thickened."""

import numpy as np
import tensorflow as tf

from pictures_of import batches

# The ranges of what is drawn anew for each digit; all but the smoothness grow with `strength`.
ROTATION = 15.0  # degrees, at most, to either side
SCALING = 0.15  # relative change of height and width at most, each on its own
SHEAR = 0.2  # columns by which neighbouring rows part at most
SHIFT = 1.5  # pixels at most
SMOOTHNESS = 4.0  # pixels: deviation of the Gaussian that smooths the elastic field
ELASTICITY = 1.1  # pixels: deviation of the elastic displacements
THICKENING = 0.4  # share by which a digit becomes its dilation or its erosion at most


def distorted(
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    batch_size: int,
    start: int = 0,
    strength: float = 1.0,
) -> tf.data.Dataset:
    """Returns distorted images without end; the same ones for the same seed.

    Images come in shuffled passes, each distorted in another way in each pass.

    Args:
        images: uint8 array `(n, height, width, 1)`.
        labels: Integer array `(n,)`.
        seed: Integer from 0 to 2³² - 1.
        batch_size: Positive integer.
        start: Number of the first batch; those before it cost no distortions.
        strength: Factor of all distortions.

    Returns:
        `tf.data.Dataset` of batches of float32 images from 0 to 255, and labels.
    """
    images, labels = tf.constant(images), tf.constant(labels)
    displacements = _displacements(*images.shape[1:3], strength)

    def read(number, indices):
        batch = tf.cast(tf.gather(images, indices)[..., 0], tf.float32)
        seeds = tf.random.experimental.stateless_split((seed, number), 3)
        batch = _thickened(batch, seeds[0], strength)
        batch = _moved(batch, seeds[1:], displacements, strength)
        return batch[..., None], tf.gather(labels, indices)

    numbered = batches.shuffled(len(images), batch_size, seed, start)
    return numbered.map(read, num_parallel_calls=2).prefetch(2)


def _thickened(images, seed, strength):
    """Returns images mixed with their dilations or erosions."""

    def extreme(function):
        around = tf.pad(images, [[0, 0], [1, 1], [1, 1]])
        rows = function(function(around[:, :-2], around[:, 1:-1]), around[:, 2:])
        return function(function(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])

    shape = (tf.shape(images)[0], 1, 1)
    most = strength * THICKENING
    amount = tf.random.stateless_uniform(shape, seed, -most, most)
    other = tf.where(amount > 0, extreme(tf.maximum), extreme(tf.minimum))
    return images + tf.abs(amount) * (other - images)


def _displacements(height, width, strength):
    """Displacements that are added up with random weights: `(3 + k, height * width)`.

    The first three, y, x and 1 from the centre, make affine maps. The others are Gaussian bumps,
    which with normal weights make the elastic field of Simard et al. (2003): smoothed noise. Bumps
    as far apart as they are wide do for that, and are fewer than the pixels.
    """

    def bumps(size):
        centres = np.arange(-SMOOTHNESS / 2, size + SMOOTHNESS, SMOOTHNESS)
        values = np.exp(-(((np.arange(size) - centres[:, None]) / SMOOTHNESS) ** 2) / 2)
        return values / np.linalg.norm(values, axis=0)

    elastic = strength * ELASTICITY * np.einsum("iy,jx->ijyx", bumps(height), bumps(width))
    centre = np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
    affine = np.concatenate([np.mgrid[:height, :width] - centre, np.ones((1, height, width))])
    return (
        np.concatenate([affine, elastic.reshape(-1, height, width)])
        .reshape(-1, height * width)
        .astype("float32")
    )


def _moved(images, seeds, displacements, strength):
    """Returns images whose pixels come from random places, by bilinear interpolation."""
    count, height, width = tf.shape(images)[0], *images.shape[1:]
    bumps = tf.random.stateless_normal((count, 2, len(displacements) - 3), seeds[1])
    weights = tf.concat([_affine(count, seeds[0], strength), bumps], axis=-1)  # (b, 2, 3 + k)
    places = tf.tensordot(weights, displacements, 1)  # (b, 2, height * width)
    # Places beyond the margin of zeros around an image are as good as at its edge.
    size = tf.constant([[height], [width]], tf.float32)
    places = tf.clip_by_value(places + (size + 1) / 2, 0.0, size + 0.999)
    corners = tf.floor(places)
    down, right = tf.unstack(places - corners, axis=1)
    rows, columns = tf.unstack(tf.cast(corners, tf.int32), axis=1)
    padded = tf.pad(images, [[0, 0], [1, 2], [1, 2]])
    stride = width + 3
    first = tf.range(count)[:, None] * ((height + 3) * stride) + rows * stride + columns
    pixels = tf.reshape(padded, [-1])
    near, next_column, next_row, far = (
        tf.gather(pixels, first + step) for step in (0, 1, stride, stride + 1)
    )
    upper = near + right * (next_column - near)
    lower = next_row + right * (far - next_row)
    return tf.reshape(upper + down * (lower - upper), (-1, height, width))


def _affine(count, seed, strength):
    """Returns random affine maps as weights of y, x and 1, `(count, 2, 3)`."""
    angle, tall, wide, shear, down, right = tf.unstack(
        tf.random.stateless_uniform((6, count), seed, -strength, strength)
    )
    angle = angle * (ROTATION * np.pi / 180)
    tall, wide = 1 + SCALING * tall, 1 + SCALING * wide
    sine, cosine, shear = tf.sin(angle), tf.cos(angle), SHEAR * shear
    return tf.stack(
        [
            tf.stack([tall * cosine, tall * sine, SHIFT * down], -1),
            tf.stack(
                [wide * (shear * cosine - sine), wide * (shear * sine + cosine), SHIFT * right], -1
            ),
        ],
        1,
    )
