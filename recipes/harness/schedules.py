"""Learning rates by step: Keras' schedules, and a warm-up before them."""

import contextlib
from collections.abc import Iterator

import keras
from keras import ops
from keras.optimizers import schedules

NAMES = ("constant", "exponential", "linear", "cosine")
EXPONENTIAL = 0.96  # factor of the rate in each `decay_steps`


class WarmUp(schedules.LearningRateSchedule):
    """A schedule that begins after steps in which its first rate is approached in equal parts.

    At step s of w such steps, counted from 0, the rate is (s + 1) / (w + 1) of the first one: no
    step is lost to a rate of 0.

    Args:
        schedule: A schedule of Keras.
        steps: Steps before it begins.
    """

    def __init__(self, schedule: schedules.LearningRateSchedule, steps: int):
        super().__init__()
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        begun = (step + 1) / (self.steps + 1)
        return ops.minimum(begun, 1.0) * self.schedule(ops.maximum(step - self.steps, 0.0))

    def get_config(self):
        return {"schedule": schedules.serialize(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        return cls(schedules.deserialize(config["schedule"]), config["steps"])


def of(
    name: str,
    rate: float,
    steps: int,
    *,
    warm_up: float = 0.0,
    final_rate: float = 0.0,
    decay_steps: int = 1000,
) -> float | schedules.LearningRateSchedule:
    """Returns the learning rate of a training.

    Args:
        name: One of `NAMES`.
        rate: The highest rate.
        steps: Steps of the training.
        warm_up: Share of the steps in which the rate rises to the highest one.
        final_rate: Share of the highest rate that `"linear"` and `"cosine"` end at.
        decay_steps: Steps in which the rate of `"exponential"` becomes `EXPONENTIAL` of itself.
    """
    before = round(warm_up * steps)
    left = max(steps - before, 1)
    if name == "constant":
        # A schedule of Keras' own, where a warm-up needs one.
        schedule = schedules.ExponentialDecay(rate, 1, 1.0) if before else rate
    elif name == "exponential":
        schedule = schedules.ExponentialDecay(rate, decay_steps, EXPONENTIAL)
    elif name == "linear":
        schedule = schedules.PolynomialDecay(rate, left, final_rate * rate)
    else:
        schedule = schedules.CosineDecay(rate, left, final_rate)
    return WarmUp(schedule, before) if before else schedule


@contextlib.contextmanager
def without_warm_up(model: keras.Model) -> Iterator[None]:
    """Context in which a model can be saved for programs that do not know `WarmUp`.

    Its optimizers have the schedules of Keras that follow the warm-up.
    """
    replaced = []
    for name in ("optimizer", "routing_optimizer"):
        optimizer = getattr(model, name, None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        config = optimizer.get_config()["learning_rate"] if optimizer else None
        if isinstance(config, dict) and config["class_name"] == WarmUp.__name__:
            schedule = WarmUp.from_config(config["config"])
            optimizer.learning_rate = schedule.schedule
            replaced.append((optimizer, schedule))
    try:
        yield
    finally:
        for optimizer, schedule in replaced:
            optimizer.learning_rate = schedule
