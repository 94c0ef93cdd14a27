"""The search space of what `reproduce.py` compares."""

import dataclasses

from harness.settings import RunSettings
from kcaps.routing import ROUTINGS
from reproduction import methods
from search.hypermodels import NetworkHyperModel

_SPANS = {"penalty_weight": (1e-5, 1e-1), "inverse_temperature": (1e-2, 1e1)}

METHODS = {  # names of models here, and of methods in `reproduce.py`, without a decoder
    **{f"{name}_routing": f"{name}{methods.NO_DECODER}" for name in ROUTINGS},
    "cnn": "cnn",
    "efficient_capsnet": "efficient_capsnet",
}


class ReproducedHyperModel(NetworkHyperModel):
    """Rates and options of methods, in the networks of the budget that the settings have."""

    @classmethod
    def defaults(cls, settings: RunSettings) -> tuple[int, int]:
        plan = methods.training_of(METHODS[settings.model], settings.data, settings.budget)
        return plan.epochs, plan.batch_size

    def build(self, hp):
        def value(name, low, high, default):
            return hp.Float(name, low, high, sampling="log", default=default)

        images, budget = self.images, self.settings.budget
        task = METHODS[self.settings.model], images.name
        plan = methods.training_of(*task, budget)
        rates = {"rate": value("learning_rate", 3e-4, 1e-2, plan.rate)}
        options = {
            option: value(option, *_SPANS[option], default)
            for option, default in methods.options_of(*task).items()
        }
        if plan.routing_rate:
            rates["routing_rate"] = value("routing_rate", 1e-7, 1e-4, plan.routing_rate)
        network = methods.build(*task, budget, images.shape, images.num_classes, options)
        steps = self.trial_epochs(hp) * self.steps
        dataclasses.replace(plan, **rates).compile(network, steps, ["accuracy"])
        return network
