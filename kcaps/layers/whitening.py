"""A first convolution that whitens the patches of images."""

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from kcaps.validation import positive, positive_pair

# Pixels from 0 to 255 of no data in particular, as which they count before `adapt`.
_MEAN, _DEVIATION = 127.5, 64.0


@keras.saving.register_keras_serializable(package="kcaps")
class Whitening(keras.layers.Layer):
    """Convolves images with the whitened directions of their patches.

    Neighbouring pixels are nearly alike. The principal directions `e_i` of patches `p`, each
    divided by the deviation of the patches along it, tell all directions apart from the first step
    of training on:

        y_i = ±⟨e_i, p - μ⟩ / sqrt(λ_i + ε λ̄) + b_i

    with the eigenvalues `λ_i` of the patches' covariance, their mean `λ̄`, and the mean `μ` of each
    channel. Each direction comes with both signs, so that a ReLU or GELU that follows loses
    nothing. Directions and mean are fixed; the biases train.

    `adapt` measures the patches, as with Keras' preprocessing layers. Before it, patches count as
    white already, with pixels of mean 127.5 and deviation 64.

    Args:
        kernel_size: Integer or pair of integers, size of a patch. Defaults to 2.
        epsilon: Positive float, the ε above, which keeps the noise of directions that hardly vary
            from being magnified. Defaults to 0.0005.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`). Computations are in
            float32 whatever the dtype, which is that of the output.

    Input shape:
        Images `(batch, height, width, channels)`, channels known.

    Output shape:
        Features `(batch, height - kernel height + 1, width - kernel width + 1, filters)`, where
        `filters` is `2 · kernel height · kernel width · channels`.

    Raises:
        ValueError: if a size or `epsilon` is not positive, the number of channels is not known, or
            the images given to `adapt` do not fit, do not vary, or are not finite.

    Example:

    >>> images = np.random.default_rng(0).uniform(0, 255, (20, 8, 8, 3))
    >>> layer = Whitening()
    >>> layer.adapt(images)
    >>> features = layer(images)
    >>> tuple(features.shape), round(float(np.std(features)), 1)
    ((20, 7, 7, 24), 1.0)

    Reference:

    - [Jordan, 2024](https://arxiv.org/abs/2404.00498), section 3.2.
    """

    def __init__(self, kernel_size: int | tuple = 2, epsilon: float = 5e-4, **kwargs):
        kernel_size = positive_pair("kernel_size", kernel_size)
        epsilon = positive("epsilon", epsilon)
        super().__init__(autocast=False, **kwargs)  # The pixels would be rounded.
        self.kernel_size = kernel_size
        self.epsilon = epsilon
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if not channels:
            raise ValueError(
                "`Whitening` needs inputs of a known number of channels, of 1 or more. Received: "
                f"inputs of shape {tuple(input_shape)}."
            )
        size = int(np.prod(self.kernel_size)) * channels
        options = {"dtype": "float32", "autocast": False}
        fixed = {**options, "trainable": False}
        self.mean = self.add_weight(
            (channels,), keras.initializers.Constant(_MEAN), name="mean", **fixed
        )
        self.kernel = self.add_weight(
            (*self.kernel_size, channels, 2 * size), name="kernel", **fixed
        )
        self.kernel.assign(self._in_both_signs(np.eye(size) / _DEVIATION))
        self.bias = self.add_weight((2 * size,), "zeros", name="bias", **options)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.built = True

    def adapt(self, data: np.ndarray | Iterable) -> None:
        """Sets the directions to those of the patches of images.

        Args:
            data: Images `(n, height, width, channels)`, or an iterable of batches of them, such as
                a `tf.data.Dataset`; of batches that are tuples the first part counts. Some
                thousand images do.
        """
        is_array = isinstance(data, np.ndarray) or ops.is_tensor(data)
        count, total, products = 0, 0.0, 0.0
        for batch in [data] if is_array else data:
            images = batch[0] if isinstance(batch, list | tuple) else batch
            patches = self._patches(ops.convert_to_numpy(images))
            count += len(patches)
            total = total + patches.sum(0)
            products = products + patches.T @ patches
        if count == 0:
            raise ValueError("`data` must have at least one image. Received: none.")
        self._set_directions(total / count, products / count)

    def _patches(self, images):
        """Returns the patches of images, `(patches, kernel height · kernel width · channels)`."""
        if images.ndim != 4 or min(images.shape[1:3]) < max(self.kernel_size):
            raise ValueError(
                "`data` must be images (n, height, width, channels), no smaller than a patch. "
                f"Received: an array of shape {images.shape}."
            )
        if not self.built:
            self.build((None, *images.shape[1:]))
        if images.shape[-1] != self.mean.shape[0]:
            raise ValueError(
                f"`data` must have {self.mean.shape[0]} channels, as the inputs have. Received: an "
                f"array of shape {images.shape}."
            )
        windows = np.lib.stride_tricks.sliding_window_view(images, self.kernel_size, (1, 2))
        windows = np.moveaxis(windows, 3, -1)  # (n, h, w, rows, columns, channels)
        return windows.reshape(-1, np.prod(windows.shape[3:])).astype("float64")

    def _set_directions(self, mean, products):
        """Sets mean and kernel by the mean of the patches and that of their outer products."""
        channels = mean.reshape(-1, self.mean.shape[0]).mean(0)  # of all places alike
        centre = np.tile(channels, len(mean) // len(channels))
        cross = np.outer(mean - centre, centre)
        covariance = products - np.outer(centre, centre) - cross - cross.T
        variance = np.trace(covariance) / len(covariance)
        if not 0 < variance < np.inf:
            raise ValueError(
                "`data` must be images that vary, of finite pixels. Received: pixels whose "
                f"variance is {variance:g}."
            )
        values, directions = np.linalg.eigh(covariance)
        deviations = np.sqrt(np.maximum(values, 0) + self.epsilon * variance)
        self.mean.assign(channels.astype("float32"))
        self.kernel.assign(self._in_both_signs(directions / deviations))

    def _in_both_signs(self, directions):
        """Returns directions, a column each, and their opposites as a kernel."""
        both = np.concatenate([directions, -directions], axis=1).astype("float32")
        return both.reshape(self.kernel.shape)

    def call(self, inputs):
        images = ops.cast(inputs, "float32") - self.mean
        features = ops.conv(images, self.kernel, padding="valid", data_format="channels_last")
        return ops.cast(features + self.bias, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        rows, columns = self.kernel_size
        return (
            batch,
            None if height is None else height - rows + 1,
            None if width is None else width - columns + 1,
            2 * rows * columns * channels,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "epsilon": self.epsilon,
        }
