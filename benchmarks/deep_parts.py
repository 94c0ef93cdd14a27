"""Parts of the deep network beside Keras' own: forward and backward, in bfloat16 on TensorFlow.

The maps are those of the network's second block with a batch of 500 images. All rows are measured
in one run, as in bench.py.
"""

import numpy as np
import program

from export.command import Parser, positive

SHAPE, QUICK_SHAPE = (500, 8, 8, 256), (2, 4, 4, 8)


def make_rows():
    """Returns the layers of the table by their names, and the row that each is compared with."""
    import keras

    from kcaps.layers import FusedBatchNormalization, QuickGELU

    normal = {"momentum": 0.6, "epsilon": 1e-5, "scale": False}
    return {
        "ReLU": (keras.layers.Activation("relu"), "GELU of Keras"),
        "QuickGELU": (QuickGELU(), "GELU of Keras"),
        "GELU of Keras": (keras.layers.Activation("gelu"), "GELU of Keras"),
        "FusedBatchNormalization": (
            FusedBatchNormalization(**normal, bias_scale=8.0),
            "BatchNormalization of Keras",
        ),
        "BatchNormalization of Keras": (
            keras.layers.BatchNormalization(**normal),
            "BatchNormalization of Keras",
        ),
    }


def training_call(layer, shape):
    """Returns a function without arguments: outputs and gradients, compiled as a training step."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    inputs, upstream = (tf.constant(rng.normal(size=shape), "bfloat16") for _ in range(2))
    layer.build(shape)

    @tf.function
    def call():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        variables = [variable.value for variable in layer.trainable_variables]
        return outputs, tape.gradient(outputs, [inputs, *variables], upstream)

    return call


def main():
    program.set_up("tensorflow")
    import keras
    from timing import interleaved, milliseconds, table

    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=15, help="runs of each row")
    program.add_quick(parser)
    args = parser.parse_args()
    keras.config.set_dtype_policy("mixed_bfloat16")
    program.print_title("Parts of the deep network")
    shape, rows = QUICK_SHAPE if args.quick else SHAPE, make_rows()
    calls = {name: training_call(layer, shape) for name, (layer, _) in rows.items()}
    seconds = interleaved(calls, args.repeats)
    lines = []
    for name, (_, baseline) in rows.items():
        ratio = np.median(seconds[name] / seconds[baseline])
        lines.append((name, *milliseconds(seconds[name]), f"{ratio:.2f}"))
    table(
        f"Forward and backward, maps of {' × '.join(map(str, shape))}",
        ("layer", "ms", "quartiles", "of Keras'"),
        lines,
    )


if __name__ == "__main__":
    main()
