"""Images that are changed to mislead a network, within bounds that an eye hardly sees.

References: [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572) (FGSM), and [Kurakin et al.,
2017](https://arxiv.org/abs/1607.02533) (its iterated form).
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import KerasTensor, ops

from kcaps.models.architectures import PIXEL_MAX
from kcaps.validation import fraction, positive_int


def white_box(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    epsilon: float,
    steps: int = 1,
    loss: Callable | None = None,
    batch_size: int = 100,
) -> np.ndarray:
    """Returns images changed so that a model's loss rises: FGSM, or BIM in several steps.

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
    """Returns the gradient with respect to the pixels of a function of pixels and labels."""
    if keras.backend.backend() == "jax":
        import jax

        def stateless(x, y):
            with keras.StatelessScope():  # metrics of the loss may count in it
                return total(x, y)

        return jax.jit(jax.grad(stateless))

    if keras.backend.backend() == "torch":
        import torch

        def of_torch(x, y):
            x = ops.convert_to_tensor(x).requires_grad_()
            return ops.convert_to_numpy(torch.autograd.grad(total(x, y), x)[0])

        return of_torch

    import tensorflow as tf

    # The function is traced once, for batches of any size.
    pixels = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    classes = tf.TensorSpec((None,), labels.dtype)

    @tf.function(input_signature=[pixels, classes])
    def gradient(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = total(x, y)
        return tape.gradient(loss, x)

    return gradient


def lead(labels: np.ndarray, outputs: KerasTensor) -> KerasTensor:
    """Returns how far the largest output of another class is above the true one's.

    Args:
        labels: Integers `(b,)`.
        outputs: Lengths, probabilities or logits, a tensor `(b, num_classes)`.

    Returns:
        Tensor `(b,)`, positive for wrong predictions.
    """
    true = ops.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    others = ops.where(true > 0, float("-inf"), outputs)
    return ops.max(others, axis=-1) - ops.sum(true * outputs, axis=-1)
