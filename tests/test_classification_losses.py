import keras
import numpy as np
import pytest
from keras import ops

from kcaps import losses
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.losses import CLASSIFICATION_LOSSES
from kcaps.models import CapsNet

NAMES = list(CLASSIFICATION_LOSSES)
OF_PROBABILITIES = [
    *("expectation", "regularised_expectation", "chebyshev", "log", "squared_log", "tanimoto"),
    "cauchy_schwarz",
]
HINGES = {"hinge": 1, "squared_hinge": 2, "cubed_hinge": 3}


def probabilities(logits, activation="softmax"):
    logits = np.asarray(logits, "float64")
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def reference(name, y, o, activation="softmax"):
    """Table 1 for one example, in loops over the classes; log² with a plus."""
    p, classes = probabilities(o, activation), range(len(o))
    if name == "l1":
        return sum(abs(y[j] - o[j]) for j in classes)
    if name == "l2":
        return sum((y[j] - o[j]) ** 2 for j in classes)
    if name in HINGES:
        return sum(max(0, 0.5 - (2 * y[j] - 1) * o[j]) ** HINGES[name] for j in classes)
    if name == "expectation":
        return sum(abs(y[j] - p[j]) for j in classes)
    if name == "regularised_expectation":
        return sum((y[j] - p[j]) ** 2 for j in classes)
    if name == "chebyshev":
        return max(abs(p[j] - y[j]) for j in classes)
    if name == "log":
        return -sum(y[j] * np.log(p[j]) for j in classes)
    if name == "squared_log":
        return sum((y[j] * np.log(p[j])) ** 2 for j in classes)
    common, lengths = sum(p[j] * y[j] for j in classes), (sum(p**2), sum(y**2))
    if name == "tanimoto":
        return -common / (sum(lengths) - common)
    assert name == "cauchy_schwarz"
    return -np.log(common / np.sqrt(lengths[0] * lengths[1]))


def options_of(name):
    return [{"activation": a} for a in ("softmax", "sigmoid")] if name in OF_PROBABILITIES else [{}]


def values(name, y, o, **options):
    return ops.convert_to_numpy(getattr(losses, name)(y, o, **options))


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_table(name, rng):
    logits = rng.normal(scale=2, size=(6, 5)).astype("float32")
    labels = np.array([0, 4, 2, 2, 1, 3])
    one_hot = np.eye(5)[labels]
    two_hot = np.maximum(one_hot, one_hot[::-1])
    for options in options_of(name):
        for y in (one_hot, two_hot):
            expected = [reference(name, *row, **options) for row in zip(y, logits, strict=True)]
            np.testing.assert_allclose(values(name, y, logits, **options), expected, rtol=2e-5)
            loss = CLASSIFICATION_LOSSES[name](**options)
            assert float(loss(y, logits)) == pytest.approx(np.mean(expected), rel=2e-5)
        for y in (labels, labels[:, None], labels.astype("uint8")):
            np.testing.assert_array_equal(
                values(name, y, logits, **options), values(name, one_hot, logits, **options)
            )
        if options:
            np.testing.assert_allclose(
                values(name, labels, probabilities(logits, **options), from_logits=False),
                values(name, labels, logits, **options),
                rtol=1e-4,
            )


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_numerical_one(name, rng, gradient):
    logits = rng.normal(size=(4, 3))
    y = np.eye(3)[[0, 2, 1, 1]]
    # JAX computes in float32 by default, where gradients have seven digits.
    tolerance = 1e-5 if keras.backend.backend() == "jax" else 1e-7
    for options in options_of(name):
        function = getattr(losses, name)
        found = gradient(lambda o, f=function, kw=options: f(y, o, **kw), logits)
        for index in np.ndindex(logits.shape):
            step = np.zeros_like(logits)
            step[index] = 1e-6
            ends = [
                reference(name, y[index[0]], (logits + sign * step)[index[0]], **options)
                for sign in (1, -1)
            ]
            assert found[index] == pytest.approx(
                (ends[0] - ends[1]) / 2e-6, abs=tolerance, rel=1e-5
            )


@pytest.mark.parametrize("name", NAMES)
def test_finite_at_extreme_logits(name, gradient):
    rows = [[1e4, -1e4, 0], [-1e4, 1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [0, 0, 0]]
    logits, y = np.array(rows, "float32"), np.eye(3)[[0, 0, 0, 1, 2]]
    function = getattr(losses, name)
    for options in options_of(name):
        for smoothing in [{}] if name in HINGES else [{}, {"label_smoothing": 0.1}]:
            options = {**options, **smoothing}
            assert np.isfinite(values(name, y, logits, **options)).all()
            slopes = gradient(lambda o, kw=options: function(y, o, **kw), logits)
            assert np.isfinite(slopes).all()
    if name in OF_PROBABILITIES:
        ends = np.array([[0.0, 1.0], [1.0, 0.0]], "float32")
        assert np.isfinite(values(name, np.eye(2), ends, from_logits=False)).all()


def test_smoothing_mixes_labels_with_the_uniform(rng):
    logits = rng.normal(size=(4, 3)).astype("float32")
    labels = np.array([0, 2, 1, 1])
    mixed = 0.7 * np.eye(3)[labels] + 0.1
    for name in NAMES:
        if name in HINGES:
            continue
        found = values(name, labels, logits, label_smoothing=0.3)
        expected = [reference(name, *row) for row in zip(mixed, logits, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_proposition_1_expected_misclassification(rng):
    logits, labels = rng.normal(scale=3, size=(50, 4)).astype("float32"), rng.integers(4, size=50)
    p = probabilities(logits)
    right = p[np.arange(50), labels]
    np.testing.assert_allclose(values("expectation", labels, logits), 2 - 2 * right, atol=1e-6)
    regularised = 1 - 2 * right + np.sum(p**2, axis=-1)
    found = values("regularised_expectation", labels, logits)
    np.testing.assert_allclose(found, regularised, atol=1e-6)
    # Drawn labels are wrong as often as half of the loss says: 5 standard deviations.
    draws = rng.multinomial(20_000, p) / 20_000
    wrong = 1 - draws[np.arange(50), labels]
    halves = values("expectation", labels, logits) / 2
    np.testing.assert_allclose(halves, wrong, atol=5 * 0.5 / np.sqrt(20_000))


@pytest.mark.parametrize("name", ["expectation", "regularised_expectation"])
def test_proposition_2_gradients_vanish_where_misclassified(name, gradient):
    """The right class' output alone varies, the others are 0: from -∞ over a minimum to 0."""
    outputs = np.array([[o, 0, 0] for o in (-30, -3, 0, 1, 30)], "float32")
    y = np.eye(3)[[0] * len(outputs)]
    for activation in ("softmax", "sigmoid"):
        function = getattr(losses, name)
        slopes = gradient(lambda o, f=function, a=activation: f(y, o, activation=a), outputs)[:, 0]
        assert (slopes <= 0).all()
        assert abs(slopes[0]) < 1e-9 and abs(slopes[-1]) < 1e-9
        assert min(slopes) < -0.15
    sigmoid = 1 / (1 + np.exp(-outputs[:, 0].astype("float64")))
    if name == "expectation":  # the paper's derivative
        np.testing.assert_allclose(slopes, -sigmoid * (1 - sigmoid), rtol=1e-4, atol=1e-12)


def test_proposition_3_cauchy_schwarz_is_log_loss_less_half_of_renyis_entropy(rng):
    logits, labels = rng.normal(scale=3, size=(50, 4)).astype("float32"), rng.integers(4, size=50)
    entropy = -np.log(np.sum(probabilities(logits) ** 2, axis=-1))
    np.testing.assert_allclose(
        values("cauchy_schwarz", labels, logits),
        values("log", labels, logits) - entropy / 2,
        atol=1e-5,
    )


def test_chebyshev_is_half_the_expectation_loss_with_softmax_only(rng):
    logits, labels = rng.normal(scale=3, size=(50, 4)).astype("float32"), rng.integers(4, size=50)
    half = values("expectation", labels, logits) / 2
    np.testing.assert_allclose(values("chebyshev", labels, logits), half, atol=1e-6)
    half = values("expectation", labels, logits, activation="sigmoid") / 2
    found = values("chebyshev", labels, logits, activation="sigmoid")
    assert np.abs(found - half).max() > 0.1


def test_only_l2_and_squared_hinge_have_piecewise_linear_gradients(gradient):
    """Piecewise linear, not constant: zero second differences but near kinks, slopes that vary."""
    outputs = np.linspace(-4, 4, 81).astype("float32")
    rows, y = np.stack([outputs, 0 * outputs], axis=1), np.eye(2)[[0] * 81]
    linear = set()
    for name in NAMES:
        function = getattr(losses, name)
        slopes = gradient(lambda o, f=function: f(y, o), rows)[:, 0]
        bends = np.abs(np.diff(slopes, 2)) > 1e-4
        if bends.sum() <= 2 and np.ptp(slopes[~np.isclose(slopes, 0)]) > 1:
            # A jump of ±1 derivatives is no slope: the derivative must be continuous.
            if np.abs(np.diff(slopes)).max() < 0.5:
                linear.add(name)
    assert linear == {"l2", "squared_hinge"}


@pytest.mark.parametrize("name", NAMES)
def test_config_reduction_and_name(name, rng):
    loss = losses.get(name)
    assert type(loss) is CLASSIFICATION_LOSSES[name]
    assert loss.name == name
    smoothing = {} if name in HINGES else {"label_smoothing": 0.2}
    options = {**options_of(name)[-1], **smoothing}
    loss = type(loss)(reduction=None, name="mine", **options)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert copy.get_config() == loss.get_config()
    logits = rng.normal(size=(4, 3)).astype("float32")
    each = ops.convert_to_numpy(copy(np.array([0, 2, 1, 1]), logits))
    assert each.shape == (4,)
    total = type(loss)(reduction="sum", **options)(
        np.array([0, 2, 1, 1]), logits, sample_weight=np.array([1.0, 0.0, 2.0, 1.0])
    )
    assert float(total) == pytest.approx(float(each @ [1, 0, 2, 1]), rel=1e-5)


def small_network(kind):
    image = keras.Input((8, 8, 1))
    if kind == "capsules":
        capsules = PrimaryCaps(2, capsule_dim=4, kernel_size=3, strides=3)(image)
        return CapsNet(image, CapsuleLength()(DigitCaps(3, capsule_dim=4, routing="l2")(capsules)))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image) if kind == "convolutions" else image
    x = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(3)(x))


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["capsules", "dense", "convolutions"])
def test_trains_any_network_by_its_name(kind, rng, tmp_path):
    """The loss falls on the images that it is trained on, for each of the twelve."""
    images = rng.normal(size=(30, 8, 8, 1)).astype("float32")
    labels = rng.integers(3, size=30)
    names = NAMES if kind == "dense" else ["squared_hinge", "tanimoto", "cauchy_schwarz"]
    for name in names:
        model = small_network(kind)
        loss = name if kind == "capsules" else losses.get(name)
        model.compile(keras.optimizers.Adam(0.003), loss=loss, metrics=["accuracy"])
        history = model.fit(images, labels, batch_size=30, epochs=12, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    before = model.evaluate(images, labels, verbose=0)
    np.testing.assert_allclose(copy.evaluate(images, labels, verbose=0), before, rtol=1e-5)


def test_functions_compile_and_load(rng, tmp_path):
    model = small_network("dense")
    model.compile("sgd", loss=losses.tanimoto)
    images, labels = rng.normal(size=(8, 8, 8, 1)).astype("float32"), rng.integers(3, size=8)
    before = model.evaluate(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.evaluate(images, labels, verbose=0) == pytest.approx(before, rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="`activation` must be one of 'softmax', 'sigmoid'. Rec"):
        losses.LogLoss(activation="relu")
    with pytest.raises(ValueError, match="`label_smoothing` must be a number from 0 to 1. Rec"):
        losses.TanimotoLoss(label_smoothing=1.5)
    with pytest.raises(
        ValueError, match="one of 'margin', 'spread', 'length_cross_entropy', 'l1', .*loss='hings'"
    ):
        losses.get("hings")
    with pytest.raises(ValueError, match="`labels` must be integers"):
        losses.log(np.zeros((2, 4)), np.zeros((2, 5)))
