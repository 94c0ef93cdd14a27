"""The network for CIFAR-10, behind the methods of a stack."""

import keras
import numpy as np

from kcaps.losses import CLASSIFICATION_LOSSES

GATHERED = 100  # batches that are copied at once


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
