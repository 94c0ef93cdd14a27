"""Batch normalisation that trains fast on TensorFlow."""

import keras
from keras import ops

from kcaps.validation import positive

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"

if IS_TENSORFLOW:
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="kcaps")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Normalises each channel of a batch, in one operation where TensorFlow trains.

    It is Keras' `BatchNormalization` of the last axis, with the same weights and results. In
    training on TensorFlow, Keras measures and normalises maps by a dozen operations in float32;
    TensorFlow's own does so in one pass, in half precision too. Elsewhere it is Keras' own call.

    The biases may be scaled, so that a training step moves them further than other weights:

        y = γ (x - mean) / sqrt(variance + epsilon) + bias_scale · β

    A step of rate η moves `bias_scale · β` as one of rate `bias_scale² η` would move β alone.

    Args:
        momentum: Share that the moving averages keep in each step. Defaults to 0.99.
        epsilon: Positive float, added to the variance. Defaults to 0.001.
        center: Whether there is a bias β. Defaults to True.
        scale: Whether there is a factor γ. Defaults to True.
        bias_scale: Positive float, the factor of β. Defaults to 1.
        **kwargs: Further arguments of `keras.layers.BatchNormalization`, such as `axis`.

    Input shape:
        Features `(batch, …, channels)`.

    Output shape:
        That of the input.

    Raises:
        ValueError: if `bias_scale` is not positive.

    Example:

    >>> maps = keras.random.normal((2, 8, 8, 16))
    >>> tuple(FusedBatchNormalization(momentum=0.6, scale=False)(maps, training=True).shape)
    (2, 8, 8, 16)

    Reference:

    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167).
    - [Jordan, 2024](https://arxiv.org/abs/2404.00498), section 3.4 (scaled biases).
    """

    def __init__(
        self,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        bias_scale: float = 1.0,
        **kwargs,
    ):
        bias_scale = positive("bias_scale", bias_scale)
        super().__init__(momentum=momentum, epsilon=epsilon, center=center, scale=scale, **kwargs)
        self.bias_scale = bias_scale

    def call(self, inputs, training: bool | None = None, mask=None):
        if training and self.trainable and mask is None and self._is_fused(inputs):
            return self._normalize_fused(inputs)
        outputs = super().call(inputs, training=training, mask=mask)
        if not self.center or self.bias_scale == 1.0:
            return outputs
        return outputs + ops.cast((self.bias_scale - 1.0) * self.beta, outputs.dtype)

    def _is_fused(self, inputs):
        """Returns whether TensorFlow has one operation for these inputs."""
        if not IS_TENSORFLOW or len(inputs.shape) != 4 or self.axis not in (-1, 3):
            return False
        return self.compute_dtype != "float64" and not self.renorm and not self.synchronized

    def _normalize_fused(self, inputs):
        """Returns normalised features, and updates the moving averages."""
        ones = tf.ones(inputs.shape[-1:], "float32")
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self.compute_dtype),
            scale=tf.convert_to_tensor(self.gamma) if self.scale else ones,
            offset=self.bias_scale * self.beta if self.center else 0.0 * ones,
            mean=ones,  # not read in training
            variance=ones,
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
        variance *= (count - 1) / count  # TensorFlow's is that of a sample, Keras' that of a batch.
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return outputs

    def get_config(self):
        return {**super().get_config(), "bias_scale": self.bias_scale}
