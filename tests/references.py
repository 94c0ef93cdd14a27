"""The routings as plain float64 loops over examples and capsules, from the papers' equations.

Each function takes the capsules `(b, i, k)`, the kernel `(i, k, j, d)` and the routing's weights
by name, and returns the poses `(b, j, d)` and the couplings `(b, i, j)` of each iteration.
"""

import math

import numpy as np


def squash(s):
    length = math.sqrt(sum(x * x for x in s))
    return np.zeros_like(s) if length == 0 else length**2 / (1 + length**2) * (s / length)


def exponential_squash(s):
    length = math.sqrt(sum(x * x for x in s))
    return np.zeros_like(s) if length == 0 else (1 - math.exp(-length)) * (s / length)


def objective(sums):
    """Ψ of the weighted sums `(j, d)` of one example."""
    lengths = [math.sqrt(sum(x * x for x in s)) for s in sums]
    return -sum(z - math.atan(z) for z in lengths)


def softmax(logits):
    powers = [math.exp(x - max(logits)) for x in logits]
    return [power / sum(powers) for power in powers]


def _each_example(route, inputs, kernel, *args, **options):
    """Routes example by example; the last couplings of an example count for later iterations."""
    kernel = kernel.astype("float64")
    poses, couplings = [], []
    for capsules in inputs.astype("float64"):
        votes = np.array(
            [
                [capsule @ matrix[:, j] for j in range(kernel.shape[2])]
                for capsule, matrix in zip(capsules, kernel, strict=True)
            ]
        )  # (i, j, d)
        example_poses, example_couplings = route(capsules, votes, *args, **options)
        poses.append(example_poses)
        couplings.append([np.array(c) for c in example_couplings])
    most = max(map(len, couplings))
    padded = [steps + steps[-1:] * (most - len(steps)) for steps in couplings]
    return np.array(poses), [np.array([steps[t] for steps in padded]) for t in range(most)]


def _weighted_sums(couplings, votes):
    num_inputs, num_outputs, _ = votes.shape
    return np.array(
        [sum(couplings[i][j] * votes[i, j] for i in range(num_inputs)) for j in range(num_outputs)]
    )


def _dynamic(capsules, votes, num_iterations, leaky, tolerance):
    num_inputs, num_outputs, _ = votes.shape
    logits = np.zeros((num_inputs, num_outputs))
    trace, last = [], None
    for _ in range(num_iterations):
        if leaky:
            couplings = [softmax([0.0, *row])[1:] for row in logits]
        else:
            couplings = [softmax(list(row)) for row in logits]
        sums = _weighted_sums(couplings, votes)
        poses = np.array([squash(s) for s in sums])
        trace.append(couplings)
        if tolerance is not None and last is not None and abs(objective(sums) - last) < tolerance:
            break
        last = objective(sums)
        for i in range(num_inputs):
            for j in range(num_outputs):
                logits[i, j] += votes[i, j] @ poses[j]
    return poses, trace


def dynamic(inputs, kernel, weights, num_iterations=3, leaky=False, tolerance=None):
    return _each_example(_dynamic, inputs, kernel, num_iterations, leaky, tolerance)


def _fixed(capsules, votes, couplings):
    return np.array([squash(s) for s in _weighted_sums(couplings, votes)]), [couplings]


def discriminative(inputs, kernel, weights):
    return _each_example(_fixed, inputs, kernel, weights["coefficients"])


def uniform(inputs, kernel, weights):
    num_inputs, _, num_outputs, _ = kernel.shape
    return _each_example(
        _fixed, inputs, kernel, np.full((num_inputs, num_outputs), 1 / num_outputs)
    )


def _em(capsules, votes, beta_a, beta_u, num_iterations, inverse_temperature, floor):
    num_inputs, num_outputs, dim = votes.shape
    active = [min(math.sqrt(sum(x * x for x in u)), 1.0) for u in capsules]
    assigned = np.full((num_inputs, num_outputs), 1 / num_outputs)
    trace = []
    for t in range(num_iterations):
        trace.append(assigned.copy())
        rate = inverse_temperature * (1 - 0.95 ** (t + 1))
        means, variances = np.zeros((num_outputs, dim)), np.zeros((num_outputs, dim))
        activations = np.zeros(num_outputs)
        for j in range(num_outputs):
            mass = [assigned[i, j] * active[i] for i in range(num_inputs)]
            for d in range(dim):
                pairs = list(zip(mass, votes[:, j, d], strict=True))
                means[j, d] = sum(m * v for m, v in pairs) / sum(mass)
                spread = sum(m * (v - means[j, d]) ** 2 for m, v in pairs) / sum(mass)
                variances[j, d] = spread + floor
            cost = sum(
                (beta_u[j] + math.log(math.sqrt(variance))) * sum(mass) for variance in variances[j]
            )
            activations[j] = 1 / (1 + math.exp(-rate * (beta_a[j] - cost)))
        for i in range(num_inputs):
            logs = []
            for j in range(num_outputs):
                log_density = 0.0
                for d in range(dim):
                    log_density -= (votes[i, j, d] - means[j, d]) ** 2 / (2 * variances[j, d])
                    log_density -= 0.5 * math.log(2 * math.pi * variances[j, d])
                logs.append(math.log(activations[j]) + log_density)
            assigned[i] = softmax(logs)
    lengths = np.sqrt((means**2).sum(-1, keepdims=True))
    return activations[:, None] * means / lengths, trace


def em(inputs, kernel, weights, num_iterations=3, inverse_temperature=0.01, variance_floor=5e-4):
    biases = weights["activation_bias"], weights["cost_bias"]
    return _each_example(
        _em, inputs, kernel, *biases, num_iterations, inverse_temperature, variance_floor
    )


def _self_attention(capsules, votes, bias):
    num_inputs, num_outputs, dim = votes.shape
    logits = np.zeros((num_inputs, num_outputs))
    for i in range(num_inputs):
        for j in range(num_outputs):
            logits[i, j] = sum(votes[i, j] @ votes[k, j] for k in range(num_inputs))
    couplings = [
        softmax(list(row / math.sqrt(dim))) + b for row, b in zip(logits, bias, strict=True)
    ]
    poses = [exponential_squash(s) for s in _weighted_sums(couplings, votes)]
    return np.array(poses), [couplings]


def self_attention(inputs, kernel, weights):
    return _each_example(_self_attention, inputs, kernel, weights["bias"])


def layer_norm(x, scale, offset):
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / math.sqrt(variance + 1e-5) * scale + offset


def _inverted_attention(capsules, votes, scale, offset, num_iterations):
    num_inputs, num_outputs, dim = votes.shape
    poses, trace = np.zeros((num_outputs, dim)), []
    for _ in range(num_iterations):
        couplings = [
            softmax([votes[i, j] @ poses[j] / math.sqrt(dim) for j in range(num_outputs)])
            for i in range(num_inputs)
        ]
        sums = _weighted_sums(couplings, votes)
        poses = np.array([layer_norm(s, scale, offset) for s in sums])
        trace.append(couplings)
    return poses, trace


def inverted_attention(inputs, kernel, weights, num_iterations=2):
    return _each_example(
        _inverted_attention, inputs, kernel, weights["scale"], weights["offset"], num_iterations
    )
