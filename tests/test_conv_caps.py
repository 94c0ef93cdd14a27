"""Capsule maps: values against loops, gradients, saving, sizes that are not known, and errors."""

import keras
import numpy as np
import pytest
from keras import ops

import references
from kcaps.layers import CapsuleLength, ConvCaps2D, DigitCaps, PrimaryCaps
from kcaps.losses import MarginLoss
from kcaps.routing import (
    ROUTINGS,
    DiscriminativeRouting,
    DynamicRouting,
    Routing,
    UniformRouting,
)

TYPES, DIM = 2, 3  # of the maps below
SHAPE = (5, 4, TYPES, DIM)
FIXED = ("l1", "l2", "uniform")
REFERENCES = {
    "dynamic": references.dynamic,
    "l1": references.discriminative,
    "l2": references.discriminative,
    "em": references.em,
    "self_attention": references.self_attention,
    "inverted_attention": references.inverted_attention,
    "uniform": references.uniform,
}
HALVES = "mixed_bfloat16", "mixed_float16"
GEOMETRIES = [
    ((2, 3), 1, "valid"),
    ((2, 3), (2, 1), "same"),
    ((3, 2), (1, 3), "same"),
    (3, 2, "valid"),
    (1, 2, "same"),
    ((4, 1), (3, 2), "same"),
]


def layer_of(routing, rng, geometry, types=3, dim=4):
    """Returns a built layer, each weight of whose routing is random."""
    kernel_size, strides, padding = geometry
    layer = ConvCaps2D(types, dim, kernel_size, strides, padding, routing=routing)
    layer.build((None, *SHAPE))
    for weight in layer.routing.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def by_loops(maps, layer, name):
    """Returns a layer's poses by loops over positions, in float64 and from the definition alone."""
    (height, width), (down, right) = layer.kernel_size, layer.strides
    before, sizes = [0, 0], []
    for axis, (window, stride) in enumerate(zip(layer.kernel_size, layer.strides, strict=True)):
        size = maps.shape[1 + axis]
        if layer.padding == "same":  # As many as strides begin in the map, zeros on both sides.
            sizes.append(len(range(0, size, stride)))
            before[axis] = max((sizes[-1] - 1) * stride + window - size, 0) // 2
        else:
            sizes.append(len(range(0, size - window + 1, stride)))
    weights = {w.name: ops.convert_to_numpy(w).astype("float64") for w in layer.routing.weights}
    kernel = ops.convert_to_numpy(layer.kernel)
    poses = np.zeros((len(maps), *sizes, layer.num_capsules, layer.capsule_dim))
    for row in range(sizes[0]):
        for column in range(sizes[1]):
            window = np.zeros((len(maps), height, width, *maps.shape[3:]))
            for y in range(height):
                for x in range(width):
                    at = row * down + y - before[0], column * right + x - before[1]
                    if 0 <= at[0] < maps.shape[1] and 0 <= at[1] < maps.shape[2]:
                        window[:, y, x] = maps[:, at[0], at[1]]
            capsules = window.reshape(len(maps), -1, maps.shape[-1])
            poses[:, row, column] = REFERENCES[name](capsules, kernel, weights)[0]
    return poses


def test_there_is_a_reference_of_each_routing():
    assert set(REFERENCES) == set(ROUTINGS)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_poses_are_those_of_loops_over_positions(rng, name, geometry):
    layer = layer_of(name, rng, geometry)
    maps = 0.5 * rng.normal(size=(2, *SHAPE)).astype("float32")
    expected = by_loops(maps, layer, name)
    assert layer.compute_output_shape(maps.shape) == expected.shape
    found = ops.convert_to_numpy(layer(maps, training=False))
    # Variances of the votes of one position's two capsules are small, and magnify the rounding.
    is_small = name == "em" and geometry[0] == 1
    np.testing.assert_allclose(found, expected, atol=5e-4 if is_small else 3e-5)


@pytest.mark.compiled
@pytest.mark.parametrize("name", REFERENCES)
def test_training_computes_the_same(rng, name):
    layer = layer_of(name, rng, GEOMETRIES[1])
    maps = 0.5 * rng.normal(size=(2, *SHAPE)).astype("float32")
    found = ops.convert_to_numpy(layer(maps, training=True))
    np.testing.assert_allclose(found, by_loops(maps, layer, name), atol=3e-5)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_couplings_have_no_windows(rng, monkeypatch, name):
    """They are one convolution, in training and without."""
    layer = layer_of(name, rng, GEOMETRIES[0])
    maps = rng.normal(size=(2, *SHAPE)).astype("float32")
    monkeypatch.setattr(layer.routing, "iterate", None)
    monkeypatch.setattr(ConvCaps2D, "routed", None)
    for training in (False, True):
        assert layer(maps, training=training).shape == (2, 4, 2, 3, 4)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("geometry", [GEOMETRIES[1], GEOMETRIES[3]], ids=str)
def test_gradients_of_the_convolution_are_those_of_windows(rng, gradient, name, geometry):
    """In the maps, the kernel and the coefficients; with strides, they are computed apart."""
    layer = layer_of(name, rng, geometry)
    maps = rng.normal(size=(2, *SHAPE)).astype("float32")
    shape = layer.compute_output_shape(maps.shape)
    upstream = ops.convert_to_tensor(rng.normal(size=shape), "float32")
    values = [ops.convert_to_numpy(w) for w in layer.trainable_weights]

    def as_convolution(x, *weights):
        return layer.stateless_call(weights, [], x, training=True)[0] * upstream

    def as_windows(x, *weights):
        with keras.StatelessScope(zip(layer.trainable_weights, weights, strict=True)):
            pairs = layer.routing.iterate(layer.routed(x), layer.kernel.value)
            *_, (_, poses) = pairs
        return ops.reshape(poses, shape) * upstream

    found, expected = (gradient(f, maps, *values) for f in (as_convolution, as_windows))
    for pair in zip(found, expected, strict=True):
        np.testing.assert_allclose(*pair, atol=2e-5)


@pytest.mark.parametrize("base", [UniformRouting, DiscriminativeRouting])
def test_a_subclass_with_another_rule_is_called(rng, base):
    """It inherits couplings, and may make something else of them than squashed sums."""

    class Negative(base):
        def iterate(self, inputs, kernel):
            for couplings, poses in super().iterate(inputs, kernel):
                yield couplings, -poses

    class Renamed(base):
        pass

    maps = rng.normal(size=(2, *SHAPE)).astype("float32")
    layers = [ConvCaps2D(3, 4, 2, routing=r) for r in (base(), Negative(), Renamed())]
    for layer in layers:
        layer.build(maps.shape)
        layer.kernel.assign(layers[0].kernel)
    plain, negative, renamed = (
        ops.convert_to_numpy(layer(maps, training=False)) for layer in layers
    )
    np.testing.assert_allclose(negative, -plain, atol=1e-6)
    np.testing.assert_array_equal(renamed, plain)


def test_a_users_routing_sees_windows(rng):
    class Largest(Routing):
        def call(self, inputs, kernel):
            return ops.max(self.votes(inputs, kernel), axis=1)

    layer = ConvCaps2D(3, 4, (2, 3), routing=Largest())
    maps = rng.normal(size=(2, *SHAPE)).astype("float32")
    poses = ops.convert_to_numpy(layer(maps, training=False))
    kernel = ops.convert_to_numpy(layer.kernel)
    window = maps[1, 2:4, 1:4].reshape(-1, DIM)
    expected = np.einsum("ik,ikjd->ijd", window, kernel).max(0)
    np.testing.assert_allclose(poses[1, 2, 1], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["dynamic", "l2"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_sizes_that_are_not_known(rng, name, geometry):
    """A fully convolutional network takes images of any size."""
    layer = layer_of(name, rng, geometry)
    inputs = keras.Input((None, None, TYPES, DIM))
    model = keras.Model(inputs, CapsuleLength()(layer(inputs)))
    assert model.output_shape == (None, None, None, 3)
    for size in ((5, 4), (7, 9)):
        maps = 0.5 * rng.normal(size=(2, *size, TYPES, DIM)).astype("float32")
        lengths = model.predict(maps, verbose=0)
        expected = np.linalg.norm(by_loops(maps, layer, name), axis=-1)
        np.testing.assert_allclose(lengths, expected, atol=3e-5)


def test_primary_capsules_of_any_size(rng):
    image = keras.Input((None, None, 2))
    layer = PrimaryCaps(3, 4, kernel_size=3, strides=2, padding="same", as_map=True)
    model = keras.Model(image, layer(image))
    assert model.output_shape == (None, None, None, 3, 4)
    for size in ((9, 8), (5, 6)):
        images = rng.normal(size=(2, *size, 2)).astype("float32")
        found = model.predict(images, verbose=0)
        np.testing.assert_allclose(found, ops.convert_to_numpy(layer(images)), atol=1e-6)
    with pytest.raises(ValueError, match="of known channels"):
        PrimaryCaps(3, 4, 3, as_map=True)(keras.Input((9, 8, None)))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_maps_of_primary_capsules_are_the_same_capsules(rng, data_format):
    shape = (6, 5, 3) if data_format == "channels_last" else (3, 6, 5)
    flat, maps = (
        PrimaryCaps(3, 4, 2, data_format=data_format, as_map=as_map) for as_map in (False, True)
    )
    assert maps.compute_output_shape((None, *shape)) == (None, 5, 4, 3, 4)
    assert not flat.get_config()["as_map"] and maps.get_config()["as_map"]
    if data_format == "channels_first":
        return  # TensorFlow cannot convolve these on a CPU.
    images = rng.normal(size=(2, *shape)).astype("float32")
    flat(images), maps(images)
    maps.set_weights(flat.get_weights())
    capsules = ops.convert_to_numpy(maps(images))
    np.testing.assert_array_equal(capsules.reshape(2, -1, 4), ops.convert_to_numpy(flat(images)))


@pytest.mark.parametrize("routing", ["dynamic", "l2"])
def test_digit_caps_read_maps_as_capsules(rng, routing):
    on_maps, on_capsules = DigitCaps(5, 4, routing=routing), DigitCaps(5, 4, routing=routing)
    maps = rng.normal(size=(3, *SHAPE)).astype("float32")
    capsules = maps.reshape(3, -1, DIM)
    on_maps(maps), on_capsules(capsules)
    assert on_maps.kernel.shape == (5 * 4 * TYPES, DIM, 5, 4)
    on_capsules.set_weights(on_maps.get_weights())
    outputs = [ops.convert_to_numpy(x) for x in (on_maps(maps), on_capsules(capsules))]
    np.testing.assert_array_equal(*outputs)
    assert on_maps.compute_output_shape((None, *SHAPE)) == (None, 5, 4)
    with pytest.raises(ValueError, match="expected ndim=5"):
        on_maps(capsules)


def test_a_window_of_the_whole_map_is_digit_caps(rng):
    conv, digits = ConvCaps2D(5, 4, SHAPE[:2]), DigitCaps(5, 4)
    maps = rng.normal(size=(3, *SHAPE)).astype("float32")
    conv(maps), digits(maps)
    digits.set_weights(conv.get_weights())
    found = ops.convert_to_numpy(conv(maps, training=False))[:, 0, 0]
    np.testing.assert_array_equal(found, ops.convert_to_numpy(digits(maps, training=False)))


def test_config_covers_every_argument():
    layer = ConvCaps2D(
        *(2, 4, (3, 2), (2, 1), "same", DynamicRouting(2), "zeros"),
        name="maps",
        dtype="mixed_float16",
    )
    copy = ConvCaps2D.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.routing.num_iterations == 2 and copy.compute_dtype == "float16"
    copy.build((None, *SHAPE))
    assert copy.kernel.shape == (3 * 2 * TYPES, DIM, 2, 4)
    assert not np.any(ops.convert_to_numpy(copy.kernel))


def deep(routing, **options):
    """Three layers of capsule maps under class capsules."""
    image = keras.Input((12, 12, 1))
    x = PrimaryCaps(4, 4, kernel_size=3, strides=2, padding="same", as_map=True, **options)(image)
    for strides, name in ((1, "first"), (2, "second"), (1, "third")):
        x = ConvCaps2D(4, 4, 3, strides, "same", routing, name=name, **options)(x)
    poses = DigitCaps(3, 4, routing=routing, **options)(x)
    return keras.Model(image, CapsuleLength()(poses))


def bars(rng, count):
    """Pictures of noise with a bright bar that is horizontal, vertical or diagonal."""
    labels = np.arange(count) % 3
    images = rng.uniform(0, 0.3, size=(count, 12, 12, 1)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(2, 8, size=2)
        for step in range(5):
            image[y + step * (label != 0) - 1, x + step * (label != 1) - 1] += 1.0
    return images, labels


@pytest.mark.long
@pytest.mark.parametrize("routing", ROUTINGS)
def test_three_maps_and_class_capsules_train(rng, routing):
    model = deep(routing)
    images, labels = bars(rng, 96)
    loss = MarginLoss()
    if routing == "inverted_attention":  # Its lengths are logits.
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss=loss, metrics=["accuracy"])
    first = model.get_layer("first").kernel
    before = ops.convert_to_numpy(first)
    history = model.fit(images, labels, batch_size=32, epochs=12, verbose=0).history
    losses = history["loss"]
    assert np.isfinite(losses).all() and history["accuracy"][-1] > 0.7
    # The lengths of EM stay about one half at this inverse temperature; their order changes.
    assert losses[-1] < (0.99 if routing == "em" else 0.6) * losses[0]
    assert np.abs(ops.convert_to_numpy(first) - before).max() > 1e-4


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("routing", "policy"),
    [
        *((name, "float32") for name in ROUTINGS),
        *((name, policy) for name in ("dynamic", "l2", "em") for policy in HALVES),
    ],
)
def test_gradients_reach_the_first_of_deep_maps(rng, gradient, routing, policy):
    model = deep(routing, dtype=policy)
    images, _ = bars(rng, 3)
    layer = model.get_layer("first")
    upstream = ops.convert_to_tensor(rng.normal(size=(3, 3)), "float32")
    index = next(i for i, w in enumerate(model.trainable_weights) if w is layer.kernel)
    values = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    fixed = [ops.convert_to_numpy(w) for w in model.non_trainable_weights]

    def lengths(kernel):
        weights = [*values[:index], kernel, *values[index + 1 :]]
        return model.stateless_call(weights, fixed, images, training=True)[0] * upstream

    slopes = gradient(lengths, values[index])
    assert np.isfinite(slopes).all()
    # Layer normalisation gives all of its lengths the same size at the start.
    assert routing == "inverted_attention" or np.abs(slopes).max() > 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvCaps2D(0, 4, 3), "`num_capsules` must be a positive integer"),
        (lambda: ConvCaps2D(2, 0, 3), "`capsule_dim` must be a positive integer"),
        (lambda: ConvCaps2D(2, 4, 0), "`kernel_size` must be a positive integer"),
        (lambda: ConvCaps2D(2, 4, (3, 3, 3)), "or two of them"),
        (lambda: ConvCaps2D(2, 4, 3, strides=0), "`strides` must be a positive integer"),
        (lambda: ConvCaps2D(2, 4, 3, padding="full"), "`padding` must be one of 'valid', 'same'"),
        (lambda: ConvCaps2D(2, 4, 3, routing="best"), "`routing` must be one of 'dynamic'"),
        (lambda: ConvCaps2D(2, 4, 3)(np.zeros((2, 9, 4))), "expected ndim=5"),
        (lambda: ConvCaps2D(2, 4, 3)(np.zeros((2, 2, 9, 1, 4))), "`kernel_size` must fit into"),
        (lambda: ConvCaps2D(2, 4, 3)(keras.Input((9, 9, None, 4))), "known number of types"),
        (lambda: DigitCaps(2, 4)(np.zeros((2, 3, 3, 4))), "or maps of them"),
        (lambda: DigitCaps(2, 4)(keras.Input((None, 3, 2, 4))), "known number and dimension"),
        (lambda: PrimaryCaps(2, 4, 3, as_map=1), "`as_map` must be True or False"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_a_built_layer_refuses_other_maps():
    layer = ConvCaps2D(2, 4, 3)
    layer.build((None, *SHAPE))
    with pytest.raises(ValueError, match="expected axis 3 of input shape"):
        layer(np.zeros((1, 5, 4, TYPES + 1, DIM)))
    with pytest.raises(ValueError, match="`kernel_size` must fit into"):
        layer(np.zeros((1, 2, 4, TYPES, DIM)))


def test_a_routing_with_weights_serves_one_layer():
    first = ConvCaps2D(2, 4, 3, routing="l2")
    first.build((None, *SHAPE))
    with pytest.raises(ValueError, match="Give each layer an instance of its own"):
        ConvCaps2D(2, 4, 3, routing=first.routing).build((None, *SHAPE))
