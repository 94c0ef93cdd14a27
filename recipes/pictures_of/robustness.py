"""Images that try a trained network: moved by affine maps, noisy, or made to mislead it.

References:

- [affNIST](https://www.cs.toronto.edu/~tijmen/affNIST/) (the affine maps).
- [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 5.2 (training on digits that are
  shifted and not distorted otherwise).
- [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572) (FGSM), and [Kurakin et al.,
  2017](https://arxiv.org/abs/1607.02533) (its iterated form).
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scipy import ndimage

from kcaps.validation import fraction, positive_int
from pictures_of import batches, overlaps

MARGIN = 6  # pixels of canvas on every side of an image: 40 × 40 for MNIST, as in affNIST
PIXEL_MAX = 255.0

# affNIST's ranges.
ROTATION = 20.0  # degrees at most, to either side
SHEAR = 0.2  # columns by which neighbouring rows part at most
EXPANSION = (0.8, 1.2)  # factor of the height and of the width, each on its own


def affine(images, seed):
    """Images moved by random affine maps of affNIST's ranges; the same ones for the same seed.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        seed: Integer >= 0.

    Returns:
        uint8 array `(n, height + 12, width + 12, channels)`.
    """
    return transformed(images, transformations(images, seed))


def transformations(images, seed):
    """Random affine maps, one for each image: rotation, shear, expansion and translation.

    Translations are uniform over those that leave all of the image's ink on the canvas. Ink that
    is too large for the canvas is centred on it.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        seed: Integer >= 0.

    Returns:
        Array `(n, 6)`: degrees counterclockwise, shear, factors of height and width, and pixels
        down and to the right.
    """
    low = np.array([-ROTATION, -SHEAR, EXPANSION[0], EXPANSION[0]])
    high = np.array([ROTATION, SHEAR, EXPANSION[1], EXPANSION[1]])
    # In one draw, by rows: an image's map does not depend on how many images follow.
    draws = np.random.default_rng(seed).uniform(size=(len(images), 6))
    maps = low + (high - low) * draws[:, :4]
    bounds = np.stack(
        [_translations(*pair) for pair in zip(images, _matrices(maps), strict=True)]
    )  # (n, 2, 2)
    first, last = bounds[:, 0], bounds[:, 1]
    return np.hstack([maps, first + (last - first) * draws[:, 4:]])


def transformed(images, maps):
    """Images moved by affine maps about their centres, by bilinear interpolation.

    An image is rotated, sheared, expanded and translated, in this order. What surrounds it is
    black.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        maps: Array `(n, 6)`, as from `transformations`.

    Returns:
        uint8 array `(n, height + 12, width + 12, channels)`.
    """
    count, height, width, channels = images.shape
    moved = np.empty((count, height + 2 * MARGIN, width + 2 * MARGIN, channels), "uint8")
    centre = (np.array([height, width]) - 1) / 2
    # SciPy asks where in the image a place of the canvas comes from.
    inverses = np.linalg.inv(_matrices(maps))
    offsets = centre - np.einsum("nij,nj->ni", inverses, centre + MARGIN + maps[:, 4:])
    for result, image, inverse, offset in zip(moved, images, inverses, offsets, strict=True):
        for channel in range(channels):
            values = ndimage.affine_transform(
                image[..., channel].astype("float64"),
                inverse,
                offset,
                output_shape=result.shape[:2],
                order=1,
                mode="grid-constant",
            )
            result[..., channel] = np.rint(values)
    return moved


def _matrices(maps):
    """Matrices `(n, 2, 2)` that rotate, shear and expand `(y, x)` from the centre."""
    angle, shear, tall, wide = np.transpose(maps[:, :4])
    angle = np.radians(angle)
    sine, cosine = np.sin(angle), np.cos(angle)
    # y points down, so that counterclockwise is from x to -y.
    rows = [
        [tall * cosine, -tall * sine],
        [wide * (sine + shear * cosine), wide * (cosine - shear * sine)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _translations(image, matrix):
    """First and last translation `(2, 2)` with which no ink falls off the canvas."""
    size = np.array(image.shape[:2])
    ink = np.argwhere(image.any(-1) if image.any() else np.ones(size, bool))
    places = (ink - (size - 1) / 2) @ matrix.T + (size - 1) / 2 + MARGIN
    # Bilinear interpolation spreads a pixel by less than one pixel of the image.
    spread = np.abs(matrix).sum(1)
    first = -1 - (places.min(0) - spread)
    last = size + 2 * MARGIN - (places.max(0) + spread)
    middle = (first + last) / 2
    return np.where(first <= last, [first, last], middle)


def placed(images, labels, seed, batch_size, start=0):
    """Images at random places of a wider canvas without end; the same ones for the same seed.

    Images come in shuffled passes, shifted by whole pixels in another way in each pass.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        labels: Integer array `(n,)`.
        seed: Integer from 0 to 2³² - 1.
        batch_size: Positive integer.
        start: Number of the first batch.

    Returns:
        `tf.data.Dataset` of float32 images `(batch_size, height + 12, width + 12, channels)` from 0
        to 255, and labels `(batch_size,)`.
    """
    images, labels = tf.constant(images), tf.constant(labels)

    def read(number, indices):
        # A seed apart from the one of the pass with this number.
        own = tf.random.experimental.stateless_split((seed, number), 1)[0]
        shifted = overlaps.shifted(tf.gather(images, indices)[:, None], MARGIN, own)
        return tf.cast(shifted[:, 0], tf.float32), tf.gather(labels, indices)

    numbered = batches.shuffled(len(images), batch_size, seed, start)
    return numbered.map(read, num_parallel_calls=2).prefetch(2)


def canvas(images, seed):
    """Images at random places of a wider canvas, once; the same ones for the same seed.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        seed: Integer from 0 to 2³² - 1.

    Returns:
        uint8 array `(n, height + 12, width + 12, channels)`.
    """
    seeds = tf.constant([seed, 0], tf.int64)
    return overlaps.shifted(tf.constant(images)[:, None], MARGIN, seeds)[:, 0].numpy()


def noisy(images, deviation, seed):
    """Images with Gaussian noise, cut to 0 … 255.

    Args:
        images: Array of pixels from 0 to 255.
        deviation: Standard deviation of the noise as a share of 255.
        seed: Integer >= 0.

    Returns:
        float32 array of the same shape.

    Raises:
        ValueError: for a deviation that is not a number from 0 to 1.
    """
    deviation = PIXEL_MAX * fraction("deviation", deviation)
    noise = np.random.default_rng(seed).standard_normal(np.shape(images), dtype="float32")
    return np.clip(images + np.float32(deviation) * noise, 0, PIXEL_MAX)


def white_box(model, images, labels, epsilon, steps=1, loss=None, batch_size=100):
    """Images changed so that a model's loss rises: FGSM, or BIM in several steps.

    Each of n steps follows the sign of the loss's gradient, x ← x + ε/n sgn ∂L/∂x, cut to 0 … 255.

    Losses may hide how to mislead a network: the margin loss is flat, and leaves an image as it
    is, where the true class's capsule is longer than its upper margin and all others are shorter
    than the lower one. `lead` is the same for all networks and has no such places: compare by it.

    Args:
        model: Keras model from pixels 0 to 255 to one value for each class.
        images: Array `(n, height, width, channels)` of pixels from 0 to 255.
        labels: Integer array `(n,)`.
        epsilon: Largest change of a pixel as a share of 255.
        steps: Positive integer; 1 is FGSM.
        loss: Function of labels `(b,)` and outputs `(b, num_classes)` whose sum is to rise, as
            `lead`. Defaults to the loss that the model is compiled with.
        batch_size: Positive integer, images at once.

    Returns:
        float32 array of the images' shape.

    Raises:
        ValueError: for a model without a loss if none is given, an epsilon that is not a number
            from 0 to 1, or steps or a batch size that is not a positive integer.
    """
    epsilon = PIXEL_MAX * fraction("epsilon", epsilon)
    steps = positive_int("steps", steps)
    if loss is None and getattr(model, "loss", None) is None:
        raise ValueError(
            "`model` must be compiled with a loss, or `loss` be given. "
            f"Received: model={model.name!r} without a loss."
        )
    images, labels = np.asarray(images, "float32"), np.asarray(labels)
    batch_size = positive_int("batch_size", batch_size)

    def total(x, y):
        outputs = model(x, training=False)
        if loss is None:
            return model.compute_loss(x, y, outputs, training=False)
        return ops.sum(loss(y, outputs))

    gradient = _gradient(total, images, labels)
    moved = []
    for start in range(0, len(images), batch_size):
        x, y = images[start : start + batch_size], labels[start : start + batch_size]
        low, high = np.maximum(x - epsilon, 0.0), np.minimum(x + epsilon, PIXEL_MAX)
        for _ in range(steps):
            x = np.clip(x + epsilon / steps * np.sign(gradient(x, y)), low, high)
        moved.append(x)
    return np.concatenate(moved)


def _gradient(total, images, labels):
    """Gradient of a function of pixels and labels with respect to the pixels, for all batches."""
    if keras.backend.backend() == "jax":
        import jax

        def stateless(x, y):
            with keras.StatelessScope():  # in which metrics of the loss may count
                return total(x, y)

        return jax.jit(jax.grad(stateless))

    # Traced once, for batches of any size.
    pixels = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    classes = tf.TensorSpec((None,), labels.dtype)

    @tf.function(input_signature=[pixels, classes])
    def gradient(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = total(x, y)
        return tape.gradient(loss, x)

    return gradient


def lead(labels, outputs):
    """How far the largest output of another class is above the true one's.

    Args:
        labels: Integers `(b,)`.
        outputs: Lengths, probabilities or logits, a tensor `(b, num_classes)`.

    Returns:
        Tensor `(b,)`, positive for wrong predictions.
    """
    true = ops.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    others = ops.where(true > 0, float("-inf"), outputs)
    return ops.max(others, axis=-1) - ops.sum(true * outputs, axis=-1)
