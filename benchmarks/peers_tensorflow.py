"""Rows of the textbook's formulation in TensorFlow under XLA."""

import tensorflow as tf
from peers_rows import Row, begin, first_weights, keras_step, losses, poses_and_gradients
from subjects import NUM_CLASSES, OUTPUT_DIM, POSITIONS, layer_call, make_layer, network
from textbook import TextbookCaps

from kcaps.layers import CapsuleLength
from kcaps.models import CapsNet

NAME = "TensorFlow textbook, XLA"


class CompiledCaps(TextbookCaps):
    """The textbook's layer, which XLA compiles forward and backward."""

    def build(self, input_shape):
        super().build(input_shape)
        self.compiled = tf.function(super().call, jit_compile=True)

    def call(self, inputs):
        return self.compiled(inputs)


def layers(args):
    """Returns the row of the layer, by name."""
    layer = make_layer("textbook", POSITIONS * args.types)
    begin([layer.kernel], first_weights(args.filters, args.types)[-1:])
    call = tf.function(layer_call(layer, args.batch_size), jit_compile=True)
    return {NAME: Row(call, poses_and_gradients)}


def steps(args):
    """Returns the row of training steps, by name.

    TensorFlow computes the convolutions: for their gradients XLA takes fifty times as long on a
    CPU, and the row would tell of nothing else.
    """
    textbook = network("textbook", args.filters, args.types)
    (plain,) = (layer for layer in textbook.layers if isinstance(layer, TextbookCaps))
    poses = CompiledCaps(NUM_CLASSES, OUTPUT_DIM)(plain.input)
    model = CapsNet(textbook.input, CapsuleLength()(poses))
    return {NAME: Row(keras_step(args, model), losses)}
