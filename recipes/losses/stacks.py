"""Networks that a cell trains: many small ones at once in one compiled step, or a large one."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from kcaps.losses import CLASSIFICATION_LOSSES

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Keras' Adam
EVALUATION_BATCH = 1000
GATHERED = 100  # batches of the large network that are copied at once


class Stack:
    """Rectifier networks that differ in their losses only, trained side by side by Adam.

    All start from the same weights and see the same batches. The weights of a layer are one
    tensor `(n, in, out)`, so that its products for all n networks are one batched product. No
    term of the summed loss has weights of two networks: each one's gradient is that of its own
    loss. Many steps are one call, in which batches are gathered, too.

    Args:
        losses: Functions of `(y_true, y_pred)` that give one value an example, one function for
            each network.
        widths: Numbers of inputs, of units of each hidden layer, and of classes.
        learning_rate: Learning rate of Adam.
        dropout: Share of hidden units that are dropped in training, rounded to 1/256. Each
            network has masks of its own. Defaults to 0.
        jit_compile: Whether XLA compiles the whole step, which takes away what each operation
            costs however small it is; or the losses only, because in large networks XLA's
            batched products are slower than TensorFlow's. Defaults to `True`.

    Example:

    >>> stack = Stack([kcaps.losses.log, kcaps.losses.hinge], (2, 200, 4), learning_rate=1e-3)
    >>> stack.restart(seed=0)
    >>> stack.train(inputs, labels, batches)  # (examples, 2), (examples,), (steps, batch)
    >>> accuracies = stack.accuracies(inputs, labels)  # (2,)
    """

    def __init__(
        self,
        losses: Iterable[Callable],
        widths: Sequence[int],
        learning_rate: float,
        dropout: float = 0.0,
        jit_compile: bool = True,
    ):
        self.losses = list(losses)
        self.widths = tuple(widths)
        self.learning_rate = learning_rate
        self.dropped = round(256 * dropout)
        n = len(self.losses)
        self.kernels = [_variable(n, *pair) for pair in itertools.pairwise(self.widths)]
        self.biases = [_variable(n, 1, units) for units in self.widths[1:]]
        self.weights = [*self.kernels, *self.biases]
        self.first_moments = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.second_moments = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.step = tf.Variable(0)
        self.seed = tf.Variable(0)
        self._loss_gradient = tf.function(self._loss_gradient, jit_compile=True)
        self._train = tf.function(self._train, jit_compile=jit_compile)
        self._forward = tf.function(self._outputs, reduce_retracing=True)

    def restart(self, seed: int) -> None:
        """Draws initial weights as Keras' Dense layers do, the same ones for each network."""
        initializer = keras.initializers.GlorotUniform(keras.random.SeedGenerator(seed))
        for kernel in self.kernels:
            start = initializer(kernel.shape[1:])
            kernel.assign(tf.repeat(start[None], len(self.losses), axis=0))
        for variable in (*self.biases, *self.first_moments, *self.second_moments):
            variable.assign(tf.zeros_like(variable))
        self.step.assign(0)
        self.seed.assign(seed)

    def train(self, inputs: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> None:
        """Takes one step for each batch.

        Args:
            inputs: Examples `(examples, in)`, those of all networks.
            labels: Integers `(examples,)`, those of all networks.
            batches: Indices of examples `(steps, batch)`. Each number of steps compiles anew.
        """
        indices = (tf.convert_to_tensor(array, tf.int32) for array in (labels, batches))
        self._train(tf.convert_to_tensor(inputs), *indices)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the classes that each network tells, `(n, examples)`."""
        parts = [
            tf.argmax(self._forward(inputs[start : start + EVALUATION_BATCH]), axis=-1).numpy()
            for start in range(0, len(inputs), EVALUATION_BATCH)
        ]
        return np.concatenate(parts, axis=1)

    def accuracies(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the accuracy of each network, `(n,)`."""
        return np.mean(self.predict(inputs) == np.asarray(labels), axis=1)

    def _outputs(self, inputs, is_training=False):
        hidden = inputs[None]  # (1, b, in)
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            hidden = tf.matmul(hidden, kernel) + bias  # (n, b, out)
            if layer < len(self.kernels) - 1:
                hidden = tf.nn.relu(hidden)
                if is_training and self.dropped:
                    hidden *= self._mask(hidden.shape, layer)
        return hidden

    def _mask(self, shape, layer):
        """Returns dropout's factors; a byte for each costs a quarter of a random float."""
        size = int(np.prod(shape))
        seed = tf.stack([self.seed + 7919 * layer, self.step])
        words = tf.random.stateless_uniform([-(-size // 4)], seed, None, None, tf.int32)
        kept = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size] >= self.dropped
        return tf.reshape(tf.cast(kept, tf.float32) * (256 / (256 - self.dropped)), shape)

    def _loss_gradient(self, labels, outputs):
        """Returns derivatives of each network's mean loss by its outputs, `(n, b, classes)`."""
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            losses = [
                loss(labels, own)
                for loss, own in zip(self.losses, tf.unstack(outputs), strict=True)
            ]
            total = tf.reduce_sum(losses) / outputs.shape[1]
        return tape.gradient(total, outputs)

    def _train(self, inputs, labels, batches):
        for step in tf.range(tf.shape(batches)[0]):
            batch = batches[step]
            own = tf.one_hot(tf.gather(labels, batch), self.widths[-1])  # (b, classes)
            self._step(tf.gather(inputs, batch), own)

    def _step(self, inputs, labels):
        with tf.GradientTape() as tape:
            outputs = self._outputs(inputs, is_training=True)
        upstream = self._loss_gradient(labels, outputs)
        gradients = tape.gradient(outputs, self.weights, output_gradients=upstream)
        self.step.assign_add(1)
        powers = [tf.pow(beta, tf.cast(self.step, tf.float32)) for beta in (BETA_1, BETA_2)]
        rows = (self.weights, self.first_moments, self.second_moments, gradients)
        for weight, first, second, gradient in zip(*rows, strict=True):
            # Reads and writes each number once, where Keras' optimizer makes several passes.
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=self.learning_rate,
                beta1=BETA_1,
                beta2=BETA_2,
                epsilon=EPSILON,
                grad=gradient,
            )


def _variable(*shape):
    return tf.Variable(tf.zeros(shape))


class Convnet:
    """The paper's network for CIFAR-10, with one loss, which has the methods of `Stack`."""

    def __init__(self, loss, shape, num_classes, filters, learning_rate):
        self.loss, self.shape, self.num_classes = loss, shape, num_classes
        self.filters, self.learning_rate = filters, learning_rate

    def restart(self, seed: int) -> None:
        """Makes the network anew, with initial weights from a seed."""
        keras.utils.set_random_seed(seed)
        layers = []
        for pool in (keras.layers.MaxPooling2D, *[keras.layers.AveragePooling2D] * 2):
            layers.append(keras.layers.Conv2D(self.filters, 5, padding="same", activation="relu"))
            layers.append(keras.layers.BatchNormalization())
            layers.append(pool(3, strides=2, padding="same"))
        layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu")]
        layers.append(keras.layers.Dense(self.num_classes))  # the losses have the softmax
        self.model = keras.Sequential([keras.Input(self.shape), *layers])
        optimizer = keras.optimizers.Adam(self.learning_rate)
        # XLA's gradients of convolutions are slow on CPUs.
        self.model.compile(optimizer, CLASSIFICATION_LOSSES[self.loss](), jit_compile=False)

    def train(self, inputs: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> None:
        """Takes one step for each batch of indices, `(steps, batch)`."""
        for start in range(0, len(batches), GATHERED):
            part = batches[start : start + GATHERED]
            x, y = (array[part.ravel()] for array in (inputs, labels))
            self.model.fit(x, y, batch_size=part.shape[1], shuffle=False, verbose=0)

    def accuracies(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the accuracy of the network, `(1,)`."""
        classes = self.model.predict(inputs, batch_size=500, verbose=0).argmax(-1)
        return np.mean(classes[None] == labels, axis=1)
