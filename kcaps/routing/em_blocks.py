"""EM routing of a few input capsules at a time, with a gradient of its own.

XLA on a CPU stores the votes, and all that its sums over input capsules add up, several times in
each iteration and again for the gradient: the time of EM routing is that of reading and writing
them. Here each iteration computes the votes of a few input capsules anew, which stay in the cache,
and keeps sums alone. The gradient has the same form.

Notation: `q` blocks of `s` input capsules, `k` components of one, `j` output capsules, `d`
components of one, `b` examples. The examples come last, so that no sum runs over the last axis.
"""

import math
from typing import NamedTuple

from keras import ops

from kcaps.backend.gradients import unfollowed, with_gradient_of

SMALLEST_MASS = 1e-7  # It is added to the mass of votes by which their mean is divided.

_LARGEST_BLOCK = 4  # Votes of more input capsules leave the cache.


class _Blocks(NamedTuple):
    """The input capsules in blocks, and what belongs to each."""

    inputs: object  # (q, s, k, b)
    kernel: object  # (q, s, k, j·d)
    active: object  # (q, s, b)

    def block(self, index):
        """Returns the input capsules of one block, without the axis of blocks."""
        return _Blocks(self.inputs[index], self.kernel[index], self.active[index])


class _Sums(NamedTuple):
    """Sums over input capsules of weights, and of weights times deviations and their squares.

    The weights are the mass, or gradients of the logits of assignments. The sums' gradients come in
    this form, too.

    Deviations are those of the votes from a centre that is near their mean, so that the variance
    is no small difference of large numbers.
    """

    mass: object  # (j, b)
    first: object  # (j, d, b)
    second: object  # (j, d, b)


class _Gaussians(NamedTuple):
    """The output capsules, as the next assignment of votes needs them."""

    means: object  # (j, d, b)
    precisions: object  # (j, d, b)
    log_weights: object  # (j, b): all of the logarithm of the density but the deviations


class _Step(NamedTuple):
    """The numbers of an M-step that do not depend on the votes."""

    activation_bias: object  # (j,)
    cost_bias: object  # (j,)
    inverse_temperature: float
    variance_floor: float


class _Iteration(NamedTuple):
    """What one iteration computes, kept for the gradient."""

    before: _Gaussians | None  # None in the first iteration, which assigns in equal parts
    centre: object  # (j, d, b): from which the deviations are taken
    sums: _Sums
    shift: object  # (j, d, b): of the means from the centre
    variances: object  # (j, d, b)
    logits: object  # (j, b)
    step: _Step

    @property
    def means(self):
        return self.centre + self.shift

    def gaussians(self):
        log_weights = ops.log_sigmoid(self.logits) - _half_log(2 * math.pi * self.variances)
        return _Gaussians(self.means, 1 / self.variances, log_weights)


def em_in_blocks(inputs, kernel, active, biases, temperatures, variance_floor: float):
    """Returns means and activation logits of the output capsules after some iterations of EM.

    `kcaps.routing.EMRouting` has the formulas. Its arguments and results are in float32.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        active: Activations of the input capsules, `(batch, num_inputs)`.
        biases: Those of the activations and of the costs, two of shape `(num_outputs,)`.
        temperatures: The inverse temperature of each iteration, a list of numbers.
        variance_floor: Positive number, added to the variances.

    Returns:
        Means of shape `(batch, num_outputs, output_dim)` and logits `(batch, num_outputs)`.

    Example:

    >>> shapes = (2, 6, 3), (6, 3, 5, 4), (2, 6), (5,), (5,)
    >>> u, kernel, active, *biases = (ops.ones(shape) for shape in shapes)
    >>> means, logits = em_in_blocks(u, kernel, active, biases, [0.01, 0.02], 5e-4)
    >>> tuple(means.shape), round(float(means[0, 0, 0]), 3), tuple(logits.shape)
    ((2, 5, 4), 3.0, (2, 5))

    Reference:

    - [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), Procedure 1.
    """

    settings = temperatures, variance_floor

    @ops.custom_gradient
    def route(*arguments):
        blocks, iterations = _iterate(map(unfollowed, arguments), settings, _LARGEST_BLOCK)
        first = with_gradient_of(
            lambda upstream, *arguments: _gradient(blocks, iterations, unfollowed(upstream)),
            lambda upstream, *arguments: _gradient_in_one_block(upstream, arguments, settings),
        )

        def gradient(*args, upstream=None):
            return first(args[0] if upstream is None else upstream, *arguments)

        last = iterations[-1]
        return ops.concatenate([last.means, ops.expand_dims(last.logits, 1)], axis=1), gradient

    together = ops.transpose(route(inputs, kernel, active, *biases), (2, 0, 1))  # (b, j, d + 1)
    return together[..., :-1], together[..., -1]


def _iterate(arguments, settings, largest_block):
    """Returns the input capsules in blocks, and the iterations of EM."""
    inputs, kernel, active, *biases = arguments
    temperatures, variance_floor = settings
    blocks = _in_blocks(inputs, kernel, active, largest_block)
    gaussians, centre, iterations = None, _equal_means(inputs, kernel, active), []
    for temperature in temperatures:
        step = _Step(*biases, temperature, variance_floor)
        sums = _sum_votes(blocks, gaussians, centre, _mass)
        iterations.append(_maximize(gaussians, centre, sums, step))
        gaussians = iterations[-1].gaussians()
        centre = gaussians.means
    return blocks, iterations


def _gradient_in_one_block(upstream, arguments, settings):
    """Returns the gradient without a loop, so that it has a gradient itself."""
    blocks, iterations = _iterate(arguments, settings, arguments[1].shape[0])
    return _gradient(blocks, iterations, upstream)


def _in_blocks(inputs, kernel, active, largest):
    num_inputs, input_dim = kernel.shape[:2]
    size = max(s for s in range(1, largest + 1) if num_inputs % s == 0)
    shape = (num_inputs // size, size)
    return _Blocks(
        ops.reshape(ops.transpose(inputs, (1, 2, 0)), (*shape, input_dim, -1)),
        ops.reshape(kernel, (*shape, input_dim, -1)),
        ops.reshape(ops.transpose(active), (*shape, -1)),
    )


def _equal_means(inputs, kernel, active):
    """Returns the means `(j, d, b)` of votes that are assigned in equal parts, by one product."""
    num_inputs, input_dim, num_outputs, output_dim = kernel.shape
    weighted = ops.reshape(inputs * ops.expand_dims(active, -1), (-1, num_inputs * input_dim))
    totals = ops.matmul(weighted, ops.reshape(kernel, (num_inputs * input_dim, -1)))
    mass = ops.sum(active, axis=1, keepdims=True) + num_outputs * SMALLEST_MASS
    return ops.reshape(ops.transpose(totals / mass), (num_outputs, output_dim, -1))


def _votes(block, output_shape):
    """Returns the votes of a block, `(s, j, d, b)`."""
    votes = ops.matmul(ops.transpose(block.kernel, (0, 2, 1)), block.inputs)
    return ops.reshape(votes, (votes.shape[0], *output_shape, -1))


def _assign(votes, gaussians, centre):
    """Returns deviations from the centre `(s, j, d, b)`, and assignments `(s, j, b)`."""
    deviations = votes - centre
    if gaussians is None:
        return deviations, ops.ones((1, votes.shape[1], 1), "float32") / votes.shape[1]
    distances = ops.sum(ops.square(deviations) * gaussians.precisions, axis=2)
    logits = gaussians.log_weights - 0.5 * distances
    powers = ops.exp(logits - ops.max(logits, axis=1, keepdims=True))
    return deviations, powers / ops.sum(powers, axis=1, keepdims=True)


def _sum_votes(blocks, gaussians, centre, weigh):
    """Returns sums over all input capsules of weights, and of weighted deviations and squares.

    Args:
        blocks: The input capsules.
        gaussians: Those that assign the votes, or None for equal parts.
        centre: From which the deviations are taken.
        weigh: Function of a block, its deviations and its assignments, which returns the weights
            `(s, j, b)`.
    """

    def add(index, sums):
        block = blocks.block(index)
        votes = _votes(block, centre.shape[:2])
        deviations, assigned = _assign(votes, gaussians, centre)
        weights = weigh(block, deviations, assigned)
        weighted = ops.expand_dims(weights, 2) * deviations
        terms = weights, weighted, weighted * deviations
        return tuple(total + ops.sum(term, axis=0) for total, term in zip(sums, terms, strict=True))

    zeros = ops.zeros_like(centre)
    initial = zeros[:, 0], zeros, zeros
    count = blocks.kernel.shape[0]
    return _Sums(*(add(0, initial) if count == 1 else ops.fori_loop(0, count, add, initial)))


def _mass(block, deviations, assigned):
    """Returns the share of each input capsule that belongs to each output capsule, `(s, j, b)`."""
    return assigned * ops.expand_dims(block.active, 1)


def _half_log(variances):
    return 0.5 * ops.sum(ops.log(variances), axis=1)


def _unit_cost(variances, step):
    """Returns what it costs to describe votes of a mass of one, `(j, b)`."""
    return ops.expand_dims(step.cost_bias, -1) * variances.shape[1] + _half_log(variances)


def _maximize(before, centre, sums, step):
    """Returns the iteration that these sums make: its means, variances and logits."""
    mass = ops.expand_dims(sums.mass, 1)
    divisor = mass + SMALLEST_MASS
    shift = (sums.first - SMALLEST_MASS * centre) / divisor
    squares = sums.second - 2 * shift * sums.first + mass * ops.square(shift)
    # Where the means have moved far, rounding could make less than nothing of the sum of squares.
    variances = ops.maximum(squares, 0.0) / divisor + step.variance_floor
    activation_bias = ops.expand_dims(step.activation_bias, -1)
    logits = step.inverse_temperature * (activation_bias - _unit_cost(variances, step) * sums.mass)
    return _Iteration(before, centre, sums, shift, variances, logits, step)


def _gradient(blocks, iterations, upstream):
    """Returns the gradients of inputs, kernel, activations and both biases."""
    of_output = upstream[:, :-1], 0.0, upstream[:, -1]  # of means, variances and logits
    of_sums, of_biases = [], []
    for index in reversed(range(len(iterations))):
        sums, biases = _maximization_gradient(iterations[index], *of_output)
        of_sums.insert(0, sums)
        of_biases.append(biases)
        if index > 0:
            of_gaussians = _assignment_gradient(blocks, iterations[index], sums)
            of_output = _gaussians_gradient(iterations[index - 1], of_gaussians)
    of_biases = [sum(biases) for biases in zip(*of_biases, strict=True)]
    return *_from_blocks(*_votes_gradient(blocks, iterations, of_sums), upstream.shape), *of_biases


def _from_blocks(inputs, kernel, active, output_shape):
    """Returns arrays in the layout of the blocks in that of the layer's inputs and kernel."""
    num_inputs, input_dim = kernel.shape[0] * kernel.shape[1], kernel.shape[2]
    num_outputs, output_dim = output_shape[0], output_shape[1] - 1
    return (
        ops.transpose(ops.reshape(inputs, (num_inputs, input_dim, -1)), (2, 0, 1)),
        ops.reshape(kernel, (num_inputs, input_dim, num_outputs, output_dim)),
        ops.transpose(ops.reshape(active, (num_inputs, -1))),
    )


def _gaussians_gradient(iteration, of_gaussians):
    """Returns the gradients of means, variances and logits from which the Gaussians are made."""
    precisions = 1 / iteration.variances
    of_log_weights = ops.expand_dims(of_gaussians.log_weights, 1)
    of_variances = -precisions * (of_gaussians.precisions * precisions + 0.5 * of_log_weights)
    of_logits = of_gaussians.log_weights * ops.sigmoid(-iteration.logits)
    return of_gaussians.means, of_variances, of_logits


def _maximization_gradient(iteration, of_means, of_variances, of_logits):
    """Returns the gradients of the sums, and of both biases, by the chain rule of `_maximize`."""
    sums, shift, step = iteration.sums, iteration.shift, iteration.step
    mass = ops.expand_dims(sums.mass, 1)
    divisor = mass + SMALLEST_MASS
    of_costs = -step.inverse_temperature * of_logits  # (j, b): of the costs of all of the mass
    of_variances = (
        of_variances + 0.5 * ops.expand_dims(of_costs * sums.mass, 1) / iteration.variances
    )
    of_shift = of_means + 2 * of_variances * (mass * shift - sums.first) / divisor
    without_floor = iteration.variances - step.variance_floor
    of_mass = of_variances * (ops.square(shift) - without_floor) - of_shift * shift
    of_sums = _Sums(
        ops.sum(of_mass / divisor, axis=1) + of_costs * _unit_cost(iteration.variances, step),
        (of_shift - 2 * of_variances * shift) / divisor,
        of_variances / divisor,
    )
    of_activation_bias = step.inverse_temperature * ops.sum(of_logits, axis=-1)
    of_cost_bias = ops.sum(of_costs * sums.mass, axis=-1) * shift.shape[1]
    return of_sums, (of_activation_bias, of_cost_bias)


def _of_assigned(block, deviations, assigned, of_sums):
    """Returns the gradients of activations `(s, 1, b)` and of logits of assignments `(s, j, b)`."""
    terms = (of_sums.first + of_sums.second * deviations) * deviations
    of_mass = of_sums.mass + ops.sum(terms, axis=2)
    weighted = of_mass * assigned
    # XLA would make one slow loop of a sum over components and the next one over capsules.
    total = ops.matmul(ops.ones((1, 1, weighted.shape[1])), weighted)  # (s, 1, b)
    return total, (weighted - assigned * total) * ops.expand_dims(block.active, 1)


def _assignment_gradient(blocks, iteration, of_sums):
    """Returns the gradients of the Gaussians by which an iteration assigns the votes."""

    def of_logits(block, deviations, assigned):
        return _of_assigned(block, deviations, assigned, of_sums)[1]

    sums = _sum_votes(blocks, iteration.before, iteration.centre, of_logits)
    return _Gaussians(sums.first * iteration.before.precisions, -0.5 * sums.second, sums.mass)


def _votes_gradient(blocks, iterations, of_sums):
    """Returns the gradients of inputs, kernel and activations, in the layout of the blocks."""
    if blocks.kernel.shape[0] == 1:  # TensorFlow has no gradient of the updates below.
        gradients = _gradient_of_block(blocks.block(0), iterations, of_sums)
        return tuple(ops.expand_dims(x, 0) for x in gradients)

    def put(index, gradients):
        new = _gradient_of_block(blocks.block(index), iterations, of_sums)
        return tuple(
            ops.slice_update(x, (index, *[0] * (len(x.shape) - 1)), ops.expand_dims(y, 0))
            for x, y in zip(gradients, new, strict=True)
        )

    empty = tuple(ops.zeros_like(x) for x in (blocks.inputs, blocks.kernel, blocks.active))
    return ops.fori_loop(0, blocks.kernel.shape[0], put, empty)


def _gradient_of_block(block, iterations, of_sums):
    """Returns the gradients of the inputs, the kernel and the activations of one block."""
    votes = _votes(block, iterations[0].centre.shape[:2])
    of_votes, of_active = 0.0, 0.0
    for iteration, sums in zip(iterations, of_sums, strict=True):
        deviations, assigned = _assign(votes, iteration.before, iteration.centre)
        of_one, of_logits = _of_assigned(block, deviations, assigned, sums)
        mass = ops.expand_dims(_mass(block, deviations, assigned), 2)
        of_votes = of_votes + mass * (sums.first + 2 * sums.second * deviations)
        if iteration.before is not None:
            pull = ops.expand_dims(of_logits, 2) * iteration.before.precisions
            of_votes = of_votes - pull * deviations
        of_active = of_active + of_one
    flat = ops.reshape(of_votes, (block.kernel.shape[0], block.kernel.shape[2], -1))
    return (
        ops.matmul(block.kernel, flat),
        ops.matmul(block.inputs, ops.transpose(flat, (0, 2, 1))),
        ops.squeeze(of_active, 1),
    )
