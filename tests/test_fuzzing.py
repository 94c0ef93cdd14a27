"""Random arguments, configs, shapes and dtypes: what was promised, or an error that says why."""

import functools
import json
import math
import numbers

import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

from fuzz import ANYTHING, fuzz
from kcaps import initializers, layers, losses, metrics, regression, routing

# What Keras looks at itself where it looks for an initializer, and its words for what it is not.
TAKEN_BY_KERAS = keras.initializers.Initializer, str, dict
INITIALIZER = "initializer"
UNKNOWN = INITIALIZER, "routing", "config"


def is_count(value):
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and 1 <= value < 2**31


def is_amount(value, low=0.0, high=1.7e308):
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    value = value.item() if isinstance(value, np.generic) else value
    return is_number and low <= value <= high


def is_flag(value):
    return isinstance(value, bool | np.bool_)


def is_pair(value):
    if isinstance(value, list | tuple | np.ndarray):
        return np.ndim(value) == 1 and len(value) == 2 and all(map(is_count, value))
    return is_count(value)


def among(*names):
    return st.sampled_from(names), lambda value: isinstance(value, str) and value in names


# Of each kind of argument: values that are right, and which of all values are.
COUNT = st.integers(1, 4), is_count
AMOUNT = st.floats(0, 2), is_amount
FLAG = st.booleans(), is_flag
SHARE = st.floats(0, 1), lambda value: is_amount(value, 0, 1)
POSITIVE = st.floats(0.01, 2), lambda value: is_amount(value, 5e-324)
PAIR = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))), is_pair
INIT = (  # Keras knows more names than these
    st.sampled_from(["zeros", "glorot_uniform", initializers.VoteScaling(), None]),
    lambda value: value is None or isinstance(value, TAKEN_BY_KERAS),
)


def optional(kind):
    return st.one_of(st.none(), kind[0]), lambda value: value is None or kind[1](value)


CONFIGS = [routing.serialize(routing.get(name)) for name in routing.ROUTINGS]
ROUTING = (
    st.sampled_from([*routing.ROUTINGS, *CONFIGS]),
    lambda value: isinstance(value, dict) or isinstance(value, str) and value in routing.ROUTINGS,
)
ARCHITECTURE = among("multiclass", "one_vs_all", "all_vs_all")
CLASSES = st.integers(2, 4), lambda value: is_count(value) and value > 1
SMOOTHED = {"label_smoothing": SHARE}
PROBABILITIES = SMOOTHED | {"from_logits": FLAG, "activation": among("softmax", "sigmoid")}
OUTPUTS, HINGES = ("l1", "l2"), ("hinge", "squared_hinge", "cubed_hinge")

# Classes with their arguments; those in the second dict must be given.
CLASSES_AND_ARGUMENTS = [
    (
        layers.PrimaryCaps,
        {"strides": PAIR, "padding": among("valid", "same"), "kernel_initializer": INIT}
        | {"data_format": optional(among("channels_last", "channels_first"))},
        {"num_capsules": COUNT, "capsule_dim": COUNT, "kernel_size": PAIR},
    ),
    (
        layers.DigitCaps,
        {"routing": ROUTING, "kernel_initializer": INIT},
        {"num_capsules": COUNT, "capsule_dim": COUNT},
    ),
    (layers.CapsuleMask, {"num_active": COUNT}, {}),
    (layers.ConstantCaps, {"length": optional(POSITIVE)}, {}),
    (metrics.ExactMatch, {"num_active": COUNT}, {}),
    (initializers.VoteScaling, {"scale": POSITIVE}, {}),
    (
        routing.DynamicRouting,
        {"num_iterations": COUNT, "stop_gradient": FLAG, "leaky": FLAG}
        | {"tolerance": optional(AMOUNT)},
        {},
    ),
    (
        routing.DiscriminativeRouting,
        {"penalty": among("l1", "l2"), "penalty_weight": AMOUNT, "balanced": FLAG}
        | {"reduction": among("sum", "mean"), "coefficients_initializer": INIT},
        {},
    ),
    (
        routing.EMRouting,
        {"num_iterations": COUNT, "inverse_temperature": AMOUNT, "variance_floor": POSITIVE},
        {},
    ),
    (routing.SelfAttentionRouting, {"bias_initializer": INIT}, {}),
    (routing.InvertedAttentionRouting, {"num_iterations": COUNT}, {}),
    (
        losses.MarginLoss,
        {"present_margin": AMOUNT, "absent_margin": AMOUNT, "absent_weight": AMOUNT},
        {},
    ),
    (losses.SpreadLoss, {"margin": AMOUNT}, {}),
    (losses.ReconstructionLoss, {"weight": AMOUNT}, {}),
    *(
        (cls, SMOOTHED if name in OUTPUTS else PROBABILITIES, {})
        for name, cls in losses.CLASSIFICATION_LOSSES.items()
        if name not in HINGES
    ),
    (
        regression.Competition,
        {"architecture": ARCHITECTURE, "kernel_initializer": INIT},
        {"num_classes": CLASSES, "capsule_dim": COUNT},
    ),
    (
        regression.CapsuleRegression,
        {"architecture": ARCHITECTURE, "initializer": INIT},
        {"num_classes": CLASSES, "capsule_dim": COUNT},
    ),
    (regression.SubspaceProjection, {}, {"num_components": COUNT}),
]


@st.composite
def calls(draw):
    """A class, some of its arguments, and the names of those that are wrong."""
    cls, free, needed = draw(st.sampled_from(CLASSES_AND_ARGUMENTS))
    chosen = draw(st.sets(st.sampled_from(sorted(free)))) if free else set()
    spoilt = draw(st.none() | st.sampled_from(sorted([*free, *needed])))
    arguments, wrong = {}, []
    for name in sorted({*needed, *chosen, spoilt} - {None}):
        right, is_right = {**free, **needed}[name]
        value = draw(ANYTHING if name == spoilt else right)
        if INITIALIZER in name and isinstance(value, np.ndarray | np.generic):
            value = None  # Keras takes arrays
        arguments[name] = value
        if not is_right(value):
            wrong.append(name)
    # One component for each class is right, too.
    if wrong == ["capsule_dim"] and "architecture" in free:
        dims = arguments["capsule_dim"]
        if isinstance(dims, list | tuple | np.ndarray) and np.ndim(dims) == 1:
            if all(map(is_count, dims)) and len(dims) == arguments["num_classes"]:
                wrong = []
    return cls, arguments, wrong


def config_of(thing):
    """A config as a JSON file holds it, without names that Keras counts up."""
    config = json.loads(json.dumps(thing.get_config()))
    return {key: value for key, value in config.items() if key != "name"}


@fuzz(80, 1500, call=calls())
def test_arguments(call):
    cls, arguments, wrong = call
    if wrong:
        with pytest.raises(ValueError) as error:
            cls(**arguments)
        words = [INITIALIZER if INITIALIZER in name else name for name in wrong]
        assert any(word in str(error.value) for word in words), error.value
        return
    try:
        thing = cls(**arguments)
    except ValueError as error:  # text and dicts that Keras does not know
        text = [value for value in arguments.values() if isinstance(value, str | dict)]
        assert text and any(name in str(error) for name in UNKNOWN), error
        return
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))
    )
    assert type(again) is cls and config_of(again) == config_of(thing)


def stack(sizes, dim):
    made = [layers.DigitCaps(n, dim, routing="inverted_attention") for n in sizes]
    return layers.ConcurrentCaps(made)


def maker(function, *arguments, **options):
    """Strategy of functions that make a layer: a case makes its own."""
    return st.builds(functools.partial, st.just(function), *arguments, **options)


SIZE, PADDING = st.integers(1, 3), st.sampled_from(["valid", "same"])
POLICY = st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16"])


def encoded():
    encoder = keras.Sequential([regression.SubspaceProjection(2)])
    return regression.CapsuleRegression(3, 2, encoder=encoder)


# What Python itself says of arguments, and Keras of entries that it reads itself.
NO_ARGUMENT = "keyword argument", "positional argument", "could not be deserialized properly"
THINGS = st.one_of(
    st.sampled_from(
        [
            *(functools.partial(layers.DigitCaps, 3, 2, routing=name) for name in routing.ROUTINGS),
            *(functools.partial(routing.get, name) for name in routing.ROUTINGS),
            *losses.LOSSES.values(),
            *(losses.ReconstructionLoss, metrics.ExactMatch, initializers.VoteScaling),
        ]
    ),
    maker(layers.PrimaryCaps, SIZE, SIZE, SIZE),
    maker(layers.CapsuleMask, SIZE),
    maker(layers.ConstantCaps),
    maker(stack, st.just([3, 2]), st.just(2)),
    maker(regression.Competition, st.just(3), SIZE),
    maker(regression.SubspaceProjection, SIZE),
    maker(encoded),
)
KERAS_OWN = {"name", "dtype", "trainable", "reduction", "seed"}


def places(config, path=()):
    """Paths of all entries of a config that kcaps reads."""
    for key, value in config.items():
        if key not in KERAS_OWN:
            yield (*path, key)
            if isinstance(value, dict) and str(value.get("module")).startswith("kcaps"):
                yield from places(value, (*path, key))


@fuzz(60, 500, make=THINGS, data=st.data())
def test_changed_configs(make, data):
    thing = make()
    whole = json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))
    *path, last = data.draw(st.sampled_from([*places(whole["config"]), ("none",)]))
    entry = whole["config"]
    for key in path:
        entry = entry[key]
    change = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace":
        entry[last] = data.draw(ANYTHING)
    elif change == "remove":
        entry.pop(last, None)
    else:
        entry["unknown"] = data.draw(ANYTHING)
    try:
        made = keras.saving.deserialize_keras_object(whole)
    except ValueError:
        return
    except TypeError as error:
        assert any(words in str(error) for words in NO_ARGUMENT), error
        return
    assert type(made) is type(thing)
    config_of(made)


DTYPES = st.sampled_from(["float32", "float64", "float16", "int32", "uint8", "bool"])


@st.composite
def arrays(draw, *ranks):
    """An array of any shape, mostly of one of the ranks, with values of order one."""
    rank = draw(st.sampled_from([*ranks, *ranks, 0, 1, 2, 3, 4]))
    shape = draw(st.lists(st.integers(0, 5), min_size=rank, max_size=rank))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    scale = draw(st.sampled_from([0.0, 1e-6, 1.0, 100.0]))
    return (scale * rng.normal(size=shape)).astype(draw(DTYPES))


def finite(x):
    return bool(np.isfinite(ops.convert_to_numpy(x)).all())


LAYERS = st.one_of(
    maker(layers.PrimaryCaps, SIZE, SIZE, SIZE, SIZE, PADDING),
    maker(layers.DigitCaps, SIZE, SIZE, st.sampled_from(list(routing.ROUTINGS)), dtype=POLICY),
    maker(layers.CapsuleLength),
    maker(layers.CapsuleMask, SIZE),
    maker(layers.ConstantCaps),
    maker(stack, st.lists(SIZE, min_size=1, max_size=3), SIZE),
    maker(regression.Competition, st.integers(2, 4), SIZE, ARCHITECTURE[0]),
    maker(regression.SubspaceProjection, SIZE),
)


@fuzz(40, 600, make=LAYERS, inputs=arrays(3, 4), others=arrays(3, 4))
def test_shapes_and_dtypes_of_layers(make, inputs, others):
    """Inputs of any shape and dtype, and then those of another shape."""
    layer = make()
    for x in (inputs, others):
        if isinstance(layer, layers.PrimaryCaps) and 0 in x.shape[:1]:
            continue  # a convolution of no image has a wrong shape in TensorFlow itself
        try:
            # XLA, in which direct calls run else, has a test of its own.
            y = layer(x, training=False) if isinstance(layer, layers.DigitCaps) else layer(x)
        except ValueError as error:
            message = str(error)
            assert any(
                word in message for word in ("shape", "num_active", "num_components", "components")
            ), error
            continue
        assert tuple(y.shape) == tuple(layer.compute_output_shape(x.shape)), (x.shape, y.shape)
        assert finite(y)
        if isinstance(layer, regression.Competition) and len(x):
            np.testing.assert_allclose(ops.convert_to_numpy(y).sum(-1), 1, rtol=1e-3)


@fuzz(25, 300, name=st.sampled_from(list(routing.ROUTINGS)), x=arrays(3), kernel=arrays(4))
def test_shapes_and_dtypes_of_routings(name, x, kernel):
    """Capsules and kernels that mostly do not fit."""
    sizes = np.array([*x.shape[1:3], 3, 2])
    for k in (kernel, np.resize(np.linspace(-1, 1, 7), sizes) if x.ndim == 3 else kernel):
        try:
            routed = routing.get(name)
            poses = routed(x, k, training=False)
        except ValueError as error:
            assert "shape" in str(error), error
            continue
        assert tuple(poses.shape) == (len(x), *k.shape[2:]) and finite(poses)
        if name in ("dynamic", "em", "inverted_attention", "uniform"):
            x32, k32 = ops.cast(x, "float32"), ops.cast(k, "float32")
            for couplings, _ in routed.iterate(x32, k32):
                total = ops.convert_to_numpy(ops.sum(couplings, axis=-1))
                np.testing.assert_allclose(total, 1, rtol=1e-4)


@st.composite
def labels(draw):
    """Labels in every form, right and wrong ones."""
    size = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(["integers", "column", "matrix", "other", "floats"]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    if kind == "other":
        return draw(arrays(1, 2, 3))
    if kind == "matrix":
        return rng.integers(0, 2, (size, draw(st.integers(1, 5)))).astype(draw(DTYPES))
    low, high = draw(st.sampled_from([(0, 3), (0, 3), (-2, 6)]))
    values = rng.integers(low, high, (size, 1) if kind == "column" else size)
    return values + draw(st.sampled_from([0.0, 0.5, np.nan])) if kind == "floats" else values


def matrix(y, num_classes):
    """The classes of labels one by one: k-hot rows; None for what is no class."""
    y = np.asarray(y, "float64")
    if num_classes == 1:  # whether it is there, in both forms
        return [np.array([v]) if 0 <= v <= 1 else None for v in y.reshape(-1)]
    if y.ndim == 2 and y.shape[1] == num_classes:
        return list(y)
    rows = []
    for value in y.reshape(-1):
        known = value in range(num_classes)
        rows.append(np.eye(num_classes)[int(value)] if known else None)
    return rows


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")  # of one class
@fuzz(
    40,
    600,
    name=st.sampled_from([*losses.LOSSES]),
    y=labels(),
    predictions=arrays(2, 2),
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_labels_and_predictions_of_losses(name, y, predictions, smoothing):
    """A number that is no class is never taken for an example of no class."""
    options = {"label_smoothing": smoothing} if name not in (*HINGES, "margin", "spread") else {}
    loss = losses.LOSSES[name](reduction="none", **options)
    predictions = predictions.astype("float32")
    try:
        values = ops.convert_to_numpy(loss(y, predictions))
    except ValueError as error:
        assert "shape" in str(error), error
        fits = predictions.ndim == 2 and np.shape(y)[:1] == predictions.shape[:1]
        width = np.shape(y)[1:]
        assert not fits or width not in ((), (1,), predictions.shape[1:]) or 0 in predictions.shape
        return
    assert values.shape == predictions.shape[:1]
    rows = matrix(y, predictions.shape[1]) if predictions.shape[1] else []
    for row, value in zip(rows, values, strict=False):
        if row is None:
            assert math.isnan(value)
        elif np.sum(row) == 1 and np.isin(row, (0, 1)).all():
            assert np.isfinite(value)
