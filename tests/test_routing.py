"""Every routing of the table against a NumPy loop, and the contract that all of them keep."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kcaps import routing as routings
from kcaps.activations import squash
from kcaps.layers import DigitCaps
from kcaps.routing import DiscriminativeRouting, DynamicRouting, Routing

NAMES = list(routings.ROUTINGS)


def numpy_squash(s):
    norm = np.linalg.norm(s)
    return s * norm / (1 + norm**2)


def numpy_dynamic(inputs, kernel, num_iterations):
    """Procedure 1 of Sabour et al., one example and one capsule at a time, in float64."""
    num_inputs, _, num_outputs, output_dim = kernel.shape
    poses = np.zeros((len(inputs), num_outputs, output_dim))
    for b, capsules in enumerate(inputs.astype("float64")):
        votes = [
            [capsules[i] @ kernel[i, :, j].astype("float64") for j in range(num_outputs)]
            for i in range(num_inputs)
        ]
        logits = np.zeros((num_inputs, num_outputs))
        for iteration in range(num_iterations):
            couplings = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            for j in range(num_outputs):
                total = sum(couplings[i, j] * votes[i][j] for i in range(num_inputs))
                poses[b, j] = numpy_squash(total)
            if iteration < num_iterations - 1:
                for i in range(num_inputs):
                    for j in range(num_outputs):
                        logits[i, j] += votes[i][j] @ poses[b, j]
    return poses


def numpy_folded(inputs, kernel, coefficients):
    """Sums of equation (6) of Yang et al., before squash, in float64."""
    inputs, kernel = inputs.astype("float64"), kernel.astype("float64")
    sums = np.zeros((len(inputs), *kernel.shape[2:]))
    for b in range(len(inputs)):
        for j in range(kernel.shape[2]):
            for i in range(kernel.shape[0]):
                sums[b, j] += coefficients[i, j] * (inputs[b, i] @ kernel[i, :, j])
    return sums


@pytest.fixture
def problem(rng):
    inputs = rng.normal(size=(4, 6, 3)).astype("float32")
    kernel = rng.normal(size=(6, 3, 5, 4)).astype("float32")
    return inputs, kernel


def call(routing, inputs, kernel, compiled):
    """Through XLA, as in training, or by the plain operations, as at inference."""
    return keras.ops.convert_to_numpy(routing(inputs, kernel, training=compiled))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("num_iterations", [1, 2, 3, 5])
def test_dynamic_equals_the_procedure(problem, num_iterations, compiled):
    poses = call(DynamicRouting(num_iterations), *problem, compiled)
    np.testing.assert_allclose(poses, numpy_dynamic(*problem, num_iterations), atol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_discriminative_equals_the_equation(rng, problem, penalty, compiled):
    routing = DiscriminativeRouting(penalty)
    routing.build(problem[0].shape, problem[1].shape)
    coefficients = rng.normal(size=(6, 5)).astype("float32")
    routing.coefficients.assign(coefficients)
    sums = numpy_folded(*problem, coefficients)
    expected = np.apply_along_axis(numpy_squash, -1, sums)
    np.testing.assert_allclose(call(routing, *problem, compiled), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_numerical_ones(problem, name):
    routing = routings.get(name)
    weights = np.random.default_rng(1).normal(size=(4, 5, 4)).astype("float32")
    tensors = [tf.Variable(x) for x in problem]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(routing(*tensors, training=True) * weights)
    gradients = tape.gradient(total, tensors)

    def value(which, index, step):
        shifted = [x.astype("float64") for x in problem]
        shifted[which][index] += step
        if name == "dynamic":
            poses = numpy_dynamic(*shifted, 3)
        else:
            sums = numpy_folded(*shifted, np.full((6, 5), 1 / 5))
            poses = np.apply_along_axis(numpy_squash, -1, sums)
        return np.sum(poses * weights)

    for which, index in [(0, (1, 2, 0)), (0, (3, 5, 2)), (1, (0, 1, 2, 3)), (1, (5, 2, 4, 0))]:
        slope = (value(which, index, 1e-5) - value(which, index, -1e-5)) / 2e-5
        # float32 through three iterations
        assert float(gradients[which][index]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_stop_gradient_leaves_values_and_holds_the_couplings(problem):
    inputs, kernel = problem
    through, held = DynamicRouting(3), DynamicRouting(3, stop_gradient=True)
    np.testing.assert_allclose(call(through, *problem, True), call(held, *problem, True))
    variable = tf.Variable(inputs)
    with tf.GradientTape(persistent=True) as tape:
        a = tf.reduce_sum(through(variable, kernel) ** 2)
        b = tf.reduce_sum(held(variable, kernel) ** 2)
    assert np.abs(tape.gradient(a, variable) - tape.gradient(b, variable)).max() > 1e-3


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_routing_gradient_equals_equations_13_and_15(rng, problem, penalty, balanced, reduction):
    inputs, kernel = problem
    labels, weight = np.array([0, 3, 3, 1]), 0.01
    routing = DiscriminativeRouting(penalty, weight, balanced, reduction)
    routing.build(inputs.shape, kernel.shape)
    b = rng.normal(size=(6, 5)).astype("float32")
    b[0, 0] = 0.0  # the derivative of |x| at 0 counts as 0
    routing.coefficients.assign(b)
    with tf.GradientTape() as tape:
        objective = routing.objective(inputs, kernel, labels) - routing.penalty_term()
    gradient = tape.gradient(objective, routing.coefficients.value)

    sums = numpy_folded(inputs, kernel, b)
    expected = np.zeros((6, 5))
    for i in range(6):
        for j in range(5):
            for k in range(4):
                delta = (4 if balanced else 1) if labels[k] == j else -1
                vote = inputs[k, i].astype("float64") @ kernel[i, :, j]
                expected[i, j] += 2 * delta * (vote @ sums[k, j])
            expected[i, j] /= 4 if reduction == "mean" else 1
            expected[i, j] -= weight * (np.sign(b[i, j]) if penalty == "l1" else 2 * b[i, j])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


def test_objective_counts_sample_weights_and_several_labels(problem):
    inputs, kernel = problem
    routing = DiscriminativeRouting()
    routing.build(inputs.shape, kernel.shape)
    two_hot = np.eye(5)[[0, 1, 2, 3]] + np.eye(5)[[4, 4, 4, 4]]
    squared = (numpy_folded(inputs, kernel, np.full((6, 5), 0.2)) ** 2).sum(-1)
    weights = np.array([1.0, 0.0, 2.0, 0.5])
    expected = np.sum(weights[:, None] * (2 * two_hot - 1) * squared)
    value = routing.objective(inputs, kernel, two_hot, sample_weight=weights)
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_batch(problem, name):
    inputs, kernel = problem
    routing = routings.get(name)
    poses = call(routing, inputs, kernel, False)
    for b in range(len(inputs)):
        # products of other shapes may add in another order
        alone = call(routing, inputs[b : b + 1], kernel, False)
        np.testing.assert_allclose(alone[0], poses[b], atol=1e-6)
    np.testing.assert_allclose(call(routing, inputs[::-1], kernel, True)[::-1], poses, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e4])
def test_values_and_gradients_are_finite_at_extremes(gradient, problem, name, size):
    inputs, kernel = problem
    routing = routings.get(name)
    inputs = (inputs * size).astype("float32")
    assert np.isfinite(call(routing, inputs, kernel, True)).all()
    assert np.isfinite(gradient(lambda x: routing(x, kernel, training=True), inputs)).all()


@pytest.mark.parametrize("name", NAMES)
def test_names_configs_and_objects_give_equal_routings(name):
    routing = routings.get(name)
    assert routings.get(routing) is routing
    copy = routings.get(routings.serialize(routing))
    assert type(copy) is type(routing) and copy is not routing
    assert copy.get_config() == routing.get_config()


def test_plain_class_names_are_configs():
    config = {"class_name": "DynamicRouting", "config": {"num_iterations": 4}}
    assert routings.get(config).num_iterations == 4


def test_config_covers_every_argument():
    dynamic = DynamicRouting(num_iterations=7, stop_gradient=True)
    copy = routings.deserialize(routings.serialize(dynamic))
    assert (copy.num_iterations, copy.stop_gradient) == (7, True)
    routing = DiscriminativeRouting("l1", 0.5, True, "mean", keras.initializers.Constant(3.0))
    copy = routings.deserialize(routings.serialize(routing))
    assert (copy.penalty, copy.penalty_weight, copy.balanced) == ("l1", 0.5, True)
    copy.build((None, 2, 3), (2, 3, 4, 5))
    assert copy.reduction == "mean" and float(copy.coefficients[0, 0]) == 3.0


def xla_calls(function, *args):
    graph = tf.function(function).get_concrete_function(*map(tf.constant, args)).graph
    return [op for op in graph.get_operations() if op.node_def.attr["_XlaMustCompile"].b]


@pytest.mark.parametrize("name", NAMES)
def test_xla_in_training_and_none_at_inference(problem, name):
    routing = routings.get(name)
    routing(*problem)
    assert xla_calls(lambda u, w: routing(u, w, training=True), *problem)
    assert not xla_calls(lambda u, w: routing(u, w, training=False), *problem)


@keras.saving.register_keras_serializable(package="kcaps_tests")
class CountingRouting(Routing):
    """A user's routing on votes, with a scale of its own and a state that calls change."""

    def __init__(self, power=1.0, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def build(self, input_shape, kernel_shape):
        self.scale = self.add_weight(shape=(kernel_shape[2], 1), initializer="ones", name="scale")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.built = True

    def call(self, inputs, kernel):
        self.calls.assign(self.calls + 1)
        return squash(self.scale * keras.ops.mean(self.votes(inputs, kernel), axis=1))

    def get_config(self):
        return {**super().get_config(), "power": self.power}


def test_a_users_routing_works_saves_and_loads(problem, tmp_path):
    inputs, kernel = problem
    layer = DigitCaps(5, 4, routing=CountingRouting(power=2.0))
    model = keras.Sequential([keras.Input((6, 3)), layer])
    layer.kernel.assign(kernel)
    votes = np.einsum("bik,ikjd->bijd", inputs, kernel)
    expected = np.apply_along_axis(numpy_squash, -1, votes.mean(1))
    calls = float(layer.routing.calls)
    np.testing.assert_allclose(model(inputs, training=True), expected, atol=1e-5)
    assert float(layer.routing.calls) == calls + 1  # state survives the compiled call
    layer.routing.scale.assign(layer.routing.scale * 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))
    assert loaded.layers[-1].routing.power == 2.0


def test_a_routing_without_call_says_so(problem):
    with pytest.raises(NotImplementedError, match=r"must implement `call\(inputs, kernel\)`"):
        Routing()(*problem, training=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DynamicRouting(0), "`num_iterations` must be a positive integer. Received"),
        (lambda: DynamicRouting(2.0), "num_iterations=2.0"),
        (lambda: DynamicRouting(True), "num_iterations=True"),
        (lambda: DiscriminativeRouting("l3"), "`penalty` must be one of 'l1', 'l2'"),
        (lambda: DiscriminativeRouting("l1", -1), "`penalty_weight` must be a finite number >= 0"),
        (lambda: DiscriminativeRouting("l1", reduction="max"), "`reduction` must be one of"),
        (lambda: routings.get("best"), "'dynamic', 'l1', 'l2', a config, or an instance"),
        (lambda: routings.get(3), "Received: routing=3"),
        (lambda: routings.get({"rate": 3}), "`routing` must be the config of a kcaps.routing.Rou"),
        (
            lambda: routings.get({"module": "m", "class_name": "Nothing", "config": {}}),
            "`routing` is not the config of a routing",
        ),
        (
            lambda: routings.get(keras.saving.serialize_keras_object(keras.layers.ReLU())),
            "Received the config of: ReLU",
        ),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
