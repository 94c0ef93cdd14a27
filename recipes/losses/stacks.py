"""Many small networks of equal shape, trained at once in one compiled step."""

import itertools

import keras
import numpy as np
import tensorflow as tf

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Keras' Adam
EVALUATION_BATCH = 1000


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
        learning_rate: Of Adam.
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

    def __init__(self, losses, widths, learning_rate, dropout=0.0, jit_compile=True):
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

    def restart(self, seed):
        """Draws initial weights as Keras' Dense layers do, the same ones for each network."""
        initializer = keras.initializers.GlorotUniform(keras.random.SeedGenerator(seed))
        for kernel in self.kernels:
            start = initializer(kernel.shape[1:])
            kernel.assign(tf.repeat(start[None], len(self.losses), axis=0))
        for variable in (*self.biases, *self.first_moments, *self.second_moments):
            variable.assign(tf.zeros_like(variable))
        self.step.assign(0)
        self.seed.assign(seed)

    def train(self, inputs, labels, batches):
        """Takes one step for each batch.

        Args:
            inputs: Examples `(examples, in)`, those of all networks.
            labels: Integers `(examples,)`, those of all networks.
            batches: Indices of examples `(steps, batch)`. Each number of steps compiles anew.
        """
        indices = (tf.convert_to_tensor(array, tf.int32) for array in (labels, batches))
        self._train(tf.convert_to_tensor(inputs), *indices)

    def predict(self, inputs):
        """Classes that each network tells, as an array `(n, examples)`."""
        parts = [
            tf.argmax(self._forward(inputs[start : start + EVALUATION_BATCH]), axis=-1).numpy()
            for start in range(0, len(inputs), EVALUATION_BATCH)
        ]
        return np.concatenate(parts, axis=1)

    def accuracies(self, inputs, labels):
        """Accuracy of each network: `(n,)`."""
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
        """Dropout's factors. A byte each decides, a quarter of what random floats would cost."""
        size = int(np.prod(shape))
        seed = tf.stack([self.seed + 7919 * layer, self.step])
        words = tf.random.stateless_uniform([-(-size // 4)], seed, None, None, tf.int32)
        kept = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size] >= self.dropped
        return tf.reshape(tf.cast(kept, tf.float32) * (256 / (256 - self.dropped)), shape)

    def _loss_gradient(self, labels, outputs):
        """Derivatives of each network's mean loss by its outputs: `(n, b, classes)`."""
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
