"""The search space of perceptrons."""

import keras

from networks import baselines as networks
from search.hypermodels import NetworkHyperModel


class MLPHyperModel(NetworkHyperModel):
    """Perceptrons of two hidden layers; the space and the best values of Daza's Table 1."""

    epochs, batch_size = 18, 200  # about 4,000 steps on CIFAR-10

    def build(self, hp):
        units = hp.Choice("units", [400, 600, 1000], default=600)
        weight_decay = hp.Choice("weight_decay", [0.1, 0.01, 0.001], default=0.1)
        dropout = hp.Choice("dropout", [0.1, 0.2, 0.5], default=0.1)
        learning_rate = hp.Choice("learning_rate", [1e-3, 5e-4, 1e-4], default=1e-4)

        network = networks.mlp(
            self.images.shape,
            self.images.num_classes,
            units=[units, 400],
            dropout=dropout,
            weight_decay=weight_decay,
            kernel_initializer=networks.TORCH_INITIALIZER,
            mean=self.images.train[0].mean(0),
        )
        network.compile(
            keras.optimizers.Adam(learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[
                "accuracy",
                # The loss has the penalty of weight decay, which this has not.
                keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
            ],
        )
        return network
