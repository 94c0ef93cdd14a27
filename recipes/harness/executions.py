"""Several training steps in one call, between which a GPU does not wait for Python."""

import itertools
from collections.abc import Callable, Iterator

import keras
from keras import tree

from harness.provenance import gpu_name

STEPS = 32  # in one call


def take_steps_together(model: keras.Model, steps: int) -> None:
    """Has a GPU take several steps of a compiled model in each call.

    Callbacks are told of the last one of them. On JAX, the steps are one program; TensorFlow makes
    such a program of Keras' own setting, which Keras does not have on torch.

    Args:
        model: The model. Nothing changes where there is no GPU.
        steps: Steps of an epoch.
    """
    if gpu_name() is None or keras.backend.backend() == "torch":
        return
    model.steps_per_execution = min(STEPS, steps)
    if keras.backend.backend() == "jax":
        model.train_function = _one_program(model, model.steps_per_execution)


def _one_program(model: keras.Model, count: int) -> Callable:
    """Returns a `train_function` for Keras on JAX that takes so many steps, or what is left."""
    import jax

    def steps_of(state, batches, number):
        stacked = tree.map_structure(lambda *rows: jax.numpy.stack(rows), *batches)

        def step(index, carried):
            batch = tree.map_structure(lambda rows: rows[index], stacked)
            return model.train_step(carried[1], batch)

        logs, _ = jax.eval_shape(model.train_step, state, batches[0])
        logs = tree.map_structure(lambda log: jax.numpy.zeros(log.shape, log.dtype), logs)
        return jax.lax.fori_loop(0, number, step, (logs, state))

    # The number is a value of the program: the last steps of an epoch need no program of their own.
    program = jax.jit(steps_of, donate_argnums=0)

    def train_function(state: tuple, iterator: Iterator) -> tuple[dict, tuple]:
        batches = list(itertools.islice(iterator, count))
        padding = [batches[-1]] * (count - len(batches))
        return program(state, batches + padding, len(batches))

    return train_function
