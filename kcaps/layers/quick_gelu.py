"""An activation that is nearly the Gaussian error linear unit, and fast in half precision."""

import functools

import keras
from keras import ops

from kcaps.backend.compiling import compiled, is_compiled


@keras.saving.register_keras_serializable(package="kcaps")
class QuickGELU(keras.layers.Layer):
    """Weighs each input by a sigmoid of itself, as the Gaussian error linear unit nearly does.

    `y = x · σ(1.702 x)`, computed in float32 and returned in the dtype of the layer. It differs
    from `x · Φ(x)` by at most 0.021.

    On TensorFlow, one program compiled by XLA computes it in training. TensorFlow's own operations
    take several times as long in bfloat16 on a CPU, Keras' exact unit most of all.

    Args:
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Features of any shape.

    Output shape:
        That of the input.

    Example:

    >>> np.asarray(QuickGELU()(np.array([-2.0, 0.0, 2.0]))).round(3)
    array([-0.064,  0.   ,  1.936], dtype=float32)

    Reference:

    - [Hendrycks and Gimpel, 2016](https://arxiv.org/abs/1606.08415), section 2.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, training: bool | None = None):
        function = _compiled_unit() if is_compiled(training) else _quick_gelu
        return function(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@functools.cache
def _compiled_unit():
    """Returns the activation as one program, made when a layer first needs it."""
    return compiled(_quick_gelu)


def _quick_gelu(x):
    """Returns `x · σ(1.702 x)` in the dtype of `x`."""
    wide = ops.cast(x, "float32")
    return ops.cast(wide * ops.sigmoid(1.702 * wide), x.dtype)
