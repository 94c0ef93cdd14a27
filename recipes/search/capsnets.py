"""The search space of small capsule networks."""

import keras

from kcaps.routing import ROUTINGS
from networks.small_capsnet import SHIFT, small_capsnet
from search.hypermodels import NetworkHyperModel

_PENALISED = ("l1", "l2")
_ITERATED = ("dynamic", "em", "inverted_attention")


class CapsNetHyperModel(NetworkHyperModel):
    """Small capsule networks; the defaults are those of `digits.py`."""

    def __init__(self, images, settings):
        super().__init__(images, settings)
        self.change = SHIFT if images.name == "digits" else None

    def build(self, hp):
        name = hp.Choice("routing", list(ROUTINGS), default="dynamic")
        options, rate, steps = {}, None, 1
        with hp.conditional_scope("routing", list(_PENALISED)):
            if name in _PENALISED:
                weight = hp.Float("penalty", 1e-5, 1e-1, sampling="log", default=1e-3)
                options = {"penalty": name, "penalty_weight": weight}
                rate = hp.Float("routing_rate", 1e-6, 1e-4, sampling="log", default=1e-5)
                steps = hp.Choice("routing_steps", [1, 2, 3])
        with hp.conditional_scope("routing", list(_ITERATED)):
            if name in _ITERATED:
                options = {"num_iterations": hp.Choice("iterations", [1, 2, 3, 4], default=3)}
        capsule_dim = hp.Choice("capsule_dim", [4, 8, 16, 32], default=16)
        optimizer = self._optimizer(hp)

        routing = ROUTINGS[name](**options)
        network = small_capsnet(self.images.shape, self.images.num_classes, routing, capsule_dim)
        network.compile(
            optimizer, metrics=["accuracy"], routing_learning_rate=rate, routing_steps=steps
        )
        return network

    def _optimizer(self, hp):
        name = hp.Choice("optimizer", ["adam", "rmsprop", "sgd"])
        with hp.conditional_scope("optimizer", ["adam", "rmsprop"]):
            if name != "sgd":
                rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log", default=2e-3)
        with hp.conditional_scope("optimizer", ["sgd"]):
            if name == "sgd":  # needs larger steps
                rate = hp.Float("sgd_learning_rate", 1e-2, 1.0, sampling="log", default=1e-1)
        steps = self.trial_epochs(hp) * len(self.images.train[0]) // self.settings.batch_size
        rate = keras.optimizers.schedules.CosineDecay(rate, max(steps, 1))
        if name == "sgd":
            return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
        return {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}[name](rate)
