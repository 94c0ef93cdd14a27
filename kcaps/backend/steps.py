"""Steps of a model on a batch, written once for all backends.

Keras calls `train_step(data)` where variables change in place, on TensorFlow and torch, and
`train_step(state, data)` on JAX, where a step is a function from state to state.
"""

from collections.abc import Callable

import keras


def run_step(model: keras.Model, step: Callable, arguments: tuple, training: bool):
    """Runs a step with the arguments of `train_step` or `test_step`, as the backend needs it.

    ```python
    def train_step(self, *arguments):
        return run_step(self, self._train, arguments, training=True)
    ```

    Args:
        model: The model whose variables the step reads and assigns.
        step: Function from a batch to the logs, which assigns variables.
        arguments: The batch, or on JAX the state and the batch.
        training: Whether the state has the optimizer's variables, as in `train_step`.

    Returns:
        The logs, or on JAX the logs and the new state.
    """
    if keras.backend.backend() != "jax":
        return step(*arguments)
    state, data = arguments
    groups = _groups(model, training)
    pairs = [pair for group in zip(groups, state, strict=True) for pair in zip(*group, strict=True)]
    with keras.StatelessScope(pairs, collect_losses=True) as scope:
        logs = step(data)
    return logs, tuple([scope.get_current_value(v) for v in variables] for variables in groups)


def _groups(model, training):
    """Returns the variables of a model in the groups in which Keras passes their values around."""
    optimizers = [model.optimizer.variables] if training else []
    variables = model.trainable_variables, model.non_trainable_variables
    return [*variables, *optimizers, model.metrics_variables]


def state_beside_metrics(variables: list) -> list:
    """Returns variables that a model adds to its `metrics_variables`, which JAX alone needs.

    Variables of another kind that a step changes, neither weights nor the optimizer's, have no
    other place in the state that Keras passes around there.
    """
    return list(variables) if keras.backend.backend() == "jax" else []


def minimise(model: keras.Model, objectives: Callable, steps: list):
    """Takes one gradient step of each of several optimizers, from one pass.

    Args:
        model: The model, within `run_step`.
        objectives: Function without arguments that returns a result and a list of scalars, one for
            each of the steps.
        steps: List of pairs of an optimizer and the list of variables that it changes.

    Returns:
        The result of `objectives`.
    """
    if keras.backend.backend() == "jax":
        return _minimise_on_jax(model, objectives, steps)
    find = _torch_gradients if keras.backend.backend() == "torch" else _tensorflow_gradients
    result, gradients = find(objectives, [variables for _, variables in steps])
    for values, (optimizer, variables) in zip(gradients, steps, strict=True):
        optimizer.apply(values, variables)
    return result


def _tensorflow_gradients(objectives, groups):
    """Returns the result of a pass, and the gradient of each scalar in its group of variables."""
    import tensorflow as tf

    # A persistent tape traces second derivatives in advance, which takes time at the first step.
    with tf.GradientTape(persistent=len(groups) > 1) as tape:
        result, scalars = objectives()
    return result, [tape.gradient(*pair) for pair in zip(scalars, groups, strict=True)]


def _torch_gradients(objectives, groups):
    """Returns the result of a pass, and the gradient of each scalar in its group of variables."""
    from torch.autograd import grad

    result, scalars = objectives()
    groups = [[variable.value for variable in variables] for variables in groups]
    pairs = zip(scalars, groups, strict=True)
    return result, [grad(*pair, retain_graph=True, allow_unused=True) for pair in pairs]


def _minimise_on_jax(model, objectives, steps):
    """Takes the steps of `minimise` within a `keras.StatelessScope`."""
    import jax

    everything = [v for group in _groups(model, training=True) for v in group]

    def stateless(*start):
        values = {id(v): v.value for v in everything}
        for (_, variables), new in zip(steps, start, strict=True):
            values |= {id(v): value for v, value in zip(variables, new, strict=True)}
        pairs = [(v, values[id(v)]) for v in everything]
        with keras.StatelessScope(pairs, collect_losses=True) as scope:
            result, scalars = objectives()
        return scalars, (result, [scope.get_current_value(v) for v in everything])

    start = [[v.value for v in variables] for _, variables in steps]
    scalars, pull_back, (result, values) = jax.vjp(stateless, *start, has_aux=True)
    _assign(everything, values)  # Layers such as batch normalisation have changed them.
    for index, (optimizer, variables) in enumerate(steps):
        one_hot = [jax.numpy.full_like(s, n == index) for n, s in enumerate(scalars)]
        gradients = pull_back(one_hot)[index]
        state = [v.value for v in optimizer.variables]
        # Not `apply`, which cannot choose between branches here, as scaling of losses does.
        new, state = optimizer.stateless_apply(state, gradients, start[index])
        _assign(variables + optimizer.variables, new + state)
    return result


def _assign(variables, values):
    """Gives variables their new values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
