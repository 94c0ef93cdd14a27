"""CapsNet on graphs with named inputs, several outputs and layers that are shared."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps import diagnostics
from kcaps.graph import calls, class_calls
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder

CLASSES = 3
ROUTINGS = ["l1", "l2", "dynamic"]


@pytest.fixture
def images(rng):
    return rng.uniform(size=(12, 6, 6, 1)).astype("float32")


@pytest.fixture
def labels():
    return np.arange(12) % CLASSES


def primary(tensor):
    return PrimaryCaps(4, 4, kernel_size=3)(tensor)


def length(tensor):
    return CapsuleLength()(tensor)


def values(variables):
    return [ops.convert_to_numpy(v).copy() for v in variables]


def two_inputs(form, routing, with_decoder):
    """A network whose inputs, of one shape, come in another order than that of their names."""
    keras.utils.set_random_seed(1)
    tensors = [keras.Input((6, 6, 1), name="wet"), keras.Input((6, 6, 1), name="dry")]
    maps = keras.layers.Concatenate()([tensors[0], 3 * tensors[1]])
    lengths = length(DigitCaps(CLASSES, 4, routing=routing)(primary(maps)))
    inputs = {x.name: x for x in tensors} if form == "dict" else tensors
    rebuilt = decoder(CLASSES, 4, (6, 6, 1), (8,)) if with_decoder else None
    return CapsNet(inputs, lengths, decoder=rebuilt)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("form", "routing", "with_decoder"),
    [("list", "l2", True), ("list", "dynamic", False), ("dict", "l1", False), ("dict", "l2", True)],
)
def test_inputs_are_matched_by_name(images, labels, form, routing, with_decoder):
    """Trained on dicts in both orders, with a surplus key, and on a list: always the same."""
    other = 1 - images
    by_name = {"wet": images, "dry": other}
    forms = [by_name, {"dry": other, "wet": images}, {"all": images[:, 0], **by_name}]
    forms += [[images, other]] if form == "list" else []
    results = []
    for x in forms:
        model = two_inputs(form, routing, with_decoder)
        model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"], routing_learning_rate=1e-3)
        model.fit(x, labels, batch_size=6, shuffle=False, epochs=2, verbose=0)
        loss = model.evaluate(x, labels, verbose=0)[0]
        results.append((loss, model.predict(x, verbose=0), model.get_weights()))
    for loss, outputs, weights in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        np.testing.assert_allclose(outputs, results[0][1], atol=1e-6)
        for a, b in zip(weights, results[0][2], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_loss_in_training_is_that_of_the_named_inputs(images, labels):
    """With rates of zero, `fit` tells the loss of the outputs that `predict` has."""
    for routing in ROUTINGS:
        model = two_inputs("list", routing, with_decoder=False)
        model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=0.0)
        x = {"wet": images, "dry": 1 - images}
        loss = model.fit(x, labels, batch_size=12, verbose=0).history["loss"][0]
        lengths = model.predict(x, verbose=0)
        expected = float(ops.convert_to_numpy(model.loss(labels, lengths)))
        assert loss == pytest.approx(expected, rel=1e-5)


def test_nested_inputs_are_matched_by_name(images, labels):
    names = ["wet", "dry", "ash"]
    wet, dry, ash = (keras.Input((6, 6, 1), name=name) for name in names)
    maps = keras.layers.Concatenate()([wet, 3 * dry, 9 * ash])
    lengths = length(DigitCaps(CLASSES, 4, routing="l2")(primary(maps)))
    model = CapsNet({"few": [wet, {"one": dry}], "ash": ash}, lengths)
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=0.0)
    a, b, c = images, 1 - images, images**2
    nested = {"few": [a, {"one": b}], "ash": c}
    expected = model.evaluate(nested, labels, verbose=0)
    for x in (nested, {"wet": a, "dry": b, "ash": c}, {"all": c[:, 0], **nested}):
        found = model.fit(x, labels, batch_size=12, verbose=0).history["loss"][0]
        assert found == pytest.approx(expected, rel=1e-5)
        assert model.evaluate(x, labels, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_the_first_input_that_fits_is_rebuilt_whatever_its_name(images, labels, tmp_path):
    results = []
    for names in (["wet", "dry"], ["dry", "wet"]):
        keras.utils.set_random_seed(1)
        tensors = [keras.Input((6, 6, 1), name=name) for name in names]
        lengths = length(DigitCaps(CLASSES, 4)(primary(keras.layers.Concatenate()(tensors))))
        rebuilt = decoder(CLASSES, 4, (6, 6, 1), (8,))
        model = CapsNet({x.name: x for x in tensors}, lengths, decoder=rebuilt)
        model.compile("sgd")
        model.save(tmp_path / "model.keras")
        x = dict(zip(names, [images, 9 * images], strict=True))
        for one in (model, keras.saving.load_model(tmp_path / "model.keras")):
            results.append(one.evaluate(x, labels, verbose=0))
    np.testing.assert_allclose(results, results[0], rtol=1e-6)


def test_inputs_of_different_shapes_and_the_one_that_is_rebuilt(images, labels):
    age = keras.Input((2,), name="age")
    image = keras.Input((6, 6, 1), name="image")
    capsules = keras.layers.Concatenate(axis=1)(
        [primary(image), keras.layers.Reshape((1, 4))(keras.layers.Dense(4)(age))]
    )
    lengths = length(DigitCaps(CLASSES, 4, routing="l2")(capsules))
    model = CapsNet([age, image], lengths, decoder=decoder(CLASSES, 4, (6, 6, 1), (8,)))
    model.compile("adam")
    x = {"image": images, "age": np.ones((12, 2), "float32")}
    losses = model.fit(x, labels, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    network = keras.Model(model.input, model.class_poses)
    poses = ops.convert_to_numpy(network(x))
    kept = np.linalg.norm(poses, axis=-1).argmax(-1)
    decoded = model.decoder.predict(poses * np.eye(CLASSES)[kept][..., None], verbose=0)
    error = 0.0005 * np.sum((images - decoded) ** 2) / 12
    margin = float(ops.convert_to_numpy(model.loss(labels, model.predict(x, verbose=0))))
    assert model.evaluate(x, labels, verbose=0) == pytest.approx(margin + error, rel=1e-4)


def with_head(form, routing, with_decoder=True):
    keras.utils.set_random_seed(1)
    image = keras.Input((6, 6, 1), name="image")
    poses = DigitCaps(CLASSES, 4, routing=routing)(primary(image))
    head = keras.layers.Dense(1, name="slant")(keras.layers.Flatten()(poses))
    lengths = CapsuleLength(name="digit")(poses)
    outputs = {"list": [lengths, head], "swapped": [head, lengths]}
    outputs |= {"dict": {"digit": lengths, "slant": head}}
    rebuilt = decoder(CLASSES, 4, (6, 6, 1), (8,)) if with_decoder else None
    return CapsNet(image, outputs[form], decoder=rebuilt)


def test_several_outputs_train_the_same_in_all_forms(images, labels):
    """The labels of the class capsules are the targets of their lengths, wherever they stand."""
    slants = images.mean((1, 2, 3))[:, None]
    by_name = {"digit": labels, "slant": slants}
    forms = [
        ("list", ["margin", "mse"], [labels, slants]),
        ("list", {"digit": "margin", "slant": "mse"}, by_name),
        ("swapped", ["mse", "margin"], [slants, labels]),
        ("swapped", {"digit": "margin", "slant": "mse"}, by_name),
        ("dict", {"digit": "margin", "slant": "mse"}, by_name),
    ]
    results = []
    for form, loss, targets in forms:
        model = with_head(form, "l2")
        model.compile(keras.optimizers.SGD(0.1), loss=loss, routing_learning_rate=1e-3)
        history = model.fit(images, targets, batch_size=6, shuffle=False, epochs=2, verbose=0)
        results.append((history.history["loss"], model.get_weights()[0]))
        assert {"digit_loss", "slant_loss"} <= set(history.history)
    score = model.evaluate(images, targets, return_dict=True, verbose=0)
    assert np.isfinite(list(score.values())).all() and {"digit_loss", "slant_loss"} <= set(score)
    for history, kernel in results[1:]:
        np.testing.assert_allclose(history, results[0][0], rtol=1e-5)
        np.testing.assert_allclose(kernel, results[0][1], atol=1e-6)


def test_class_capsules_without_a_loss_of_their_own_still_take_labels(images, labels):
    """A regression whose decoder and coefficients follow the classes: the loss may be None."""
    model = with_head("list", "l2")
    model.compile("adam", loss=[None, "mse"], routing_learning_rate=1e-3)
    before = values(model.routing_variables)[0]
    slants = images.mean((1, 2, 3))[:, None]
    history = model.fit(images, [labels, slants], epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.abs(values(model.routing_variables)[0] - before).max() > 1e-5


def test_losses_are_one_for_each_output(images, labels):
    model = with_head("list", "dynamic")
    with pytest.raises(ValueError, match="`loss` must be one for all outputs, or one for each"):
        model.compile("sgd", loss=["margin", "mse", "mse"])
    with pytest.raises(ValueError, match="`loss` must have the names of outputs"):
        model.compile("sgd", loss={"digit": "margin", "slope": "mse"})
    model.compile("sgd", loss={"digit": "margin"})  # the other has none
    targets = {"digit": labels, "slant": np.ones((12, 1))}
    losses = [model.evaluate(images, targets, verbose=0)]
    model.compile("sgd", loss=["margin", None])
    losses.append(model.evaluate(images, [labels, None], verbose=0))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and np.isfinite(losses[0])


def test_ignored_classes_of_one_of_several_outputs(images, labels):
    model = with_head("list", "dynamic", with_decoder=False)
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    model.compile("sgd", loss=[loss, "mse"])
    targets = [np.where(labels == 0, -1, labels), np.ones((12, 1))]
    assert np.isfinite(model.fit(images, targets, verbose=0).history["loss"]).all()


def test_several_outputs_save_and_load(images, labels, tmp_path):
    model = with_head("dict", "l1")
    model.compile("adam", loss={"digit": "margin", "slant": "mse"})
    targets = {"digit": labels, "slant": images.mean((1, 2, 3))[:, None]}
    model.fit(images, targets, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(images, targets, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("routing", ["l2", "dynamic"])
def test_the_targets_of_an_output_called_labels_are_no_parts(images, labels, routing):
    image = keras.Input((6, 6, 1))
    poses = DigitCaps(CLASSES, 4, routing=routing)(primary(image))
    head = keras.layers.Dense(2, name="parts")(keras.layers.Flatten()(poses))
    model = CapsNet(image, [CapsuleLength(name="labels")(poses), head])
    model.compile("adam", loss={"labels": "margin", "parts": "mse"})
    targets = {"labels": labels, "parts": np.ones((12, 2), "float32")}
    assert np.isfinite(model.fit(images, targets, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (1, lambda labels: labels * 7.5),
        (1, lambda labels: labels % 2),
        (CLASSES, lambda labels: np.eye(CLASSES)[labels] * 0.7),
        (CLASSES, lambda labels: labels + 1),
        (CLASSES, lambda labels: labels * 0.5),
        (CLASSES + 2, lambda labels: labels + 2),
    ],
)
@pytest.mark.parametrize("kind", ["decoder", "l1", "l2"])
def test_targets_that_are_no_classes_are_refused(images, labels, kind, outputs, targets):
    """A decoder or coefficients would take them for labels."""
    image = keras.Input((6, 6, 1))
    routing = "dynamic" if kind == "decoder" else kind
    poses = DigitCaps(CLASSES, 4, routing=routing)(primary(image))
    head = keras.layers.Dense(outputs)(keras.layers.Flatten()(poses))
    rebuilt = decoder(CLASSES, 4, (6, 6, 1), (8,)) if kind == "decoder" else None
    model = CapsNet(image, head, decoder=rebuilt)
    model.compile("sgd", loss="mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="labels of the class capsules|`y` must hold"):
        model.fit(images, targets(labels).astype("float32"), verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_without_a_decoder_or_objective_targets_may_be_anything(images, routing):
    image = keras.Input((6, 6, 1))
    layer = DigitCaps(CLASSES, 4, routing=routing)
    poses = layer(primary(image))
    layer.routing.trainable = False
    model = CapsNet(image, keras.layers.Dense(1)(keras.layers.Flatten()(poses)))
    model.compile("sgd", loss="mse")
    loss = model.fit(images, np.linspace(-1, 1, 12), verbose=0).history["loss"]
    assert np.isfinite(loss).all()


class Stream(keras.utils.PyDataset):
    """One batch, whose values cannot be read before training."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


@pytest.mark.compiled
@pytest.mark.parametrize("with_decoder", [False, True])
def test_numbers_that_are_no_classes_spoil_a_stream(images, labels, with_decoder):
    """Masks and signs are NaN then, rather than wrong, of labels with parts too."""
    slants, matrix = np.ones((12, 1), "float32"), np.eye(CLASSES, dtype="float32")[labels] * 0.7
    model = with_head("list", "dynamic" if with_decoder else "l2", with_decoder)
    model.compile("sgd", loss=["mse", "mse"])
    model.fit(Stream(images, (matrix, slants)), verbose=0)
    assert any(np.isnan(array).any() for array in model.get_weights())
    for wrong in (20, -20, 0.7):
        pair = np.stack([labels, (labels + 1) % CLASSES], axis=1) + np.array([0, wrong])
        image = keras.Input((6, 6, 1))
        poses = DigitCaps(CLASSES, 4, routing="l2")(primary(image))
        rebuilt = decoder(CLASSES, 4, (6, 6, 1), (8,)) if with_decoder else None
        model = CapsNet(image, length(poses), decoder=rebuilt)
        model.compile("sgd")
        targets = {"labels": pair, "parts": np.stack([images, images], axis=1)}
        assert np.isnan(model.fit(Stream(images, targets), verbose=0).history["loss"]).all()


@pytest.mark.parametrize("kind", ["decoder", "l2"])
def test_the_class_layer_may_have_been_called_elsewhere(images, labels, kind):
    """A model of layers that another graph called first trains as one of its own layers does."""
    results = []
    for is_shared in (False, True):
        keras.utils.set_random_seed(1)
        caps = PrimaryCaps(4, 4, kernel_size=3)
        digits = DigitCaps(CLASSES, 4, routing="l2" if kind == "l2" else "dynamic")
        if is_shared:
            first = keras.Input((6, 6, 1))
            keras.Model(first, digits(caps(first)))
        image = keras.Input((6, 6, 1))
        keras.utils.set_random_seed(1)
        rebuilt = decoder(CLASSES, 4, (6, 6, 1), (8,)) if kind == "decoder" else None
        model = CapsNet(image, length(digits(caps(image))), decoder=rebuilt)
        rng = np.random.default_rng(0)
        model.set_weights([rng.normal(size=w.shape, scale=0.3) for w in model.get_weights()])
        assert model.class_inputs is not digits.input or not is_shared
        model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=1e-3)
        model.fit(images, labels, shuffle=False, epochs=2, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def siamese(routing, outputs, rebuilt=None):
    left, right = keras.Input((6, 6, 1), name="left"), keras.Input((6, 6, 1), name="right")
    caps, digits = PrimaryCaps(4, 4, kernel_size=3), DigitCaps(CLASSES, 4, routing=routing)
    poses = digits(caps(left)), digits(caps(right))
    return CapsNet([left, right], outputs(*poses), decoder=rebuilt)


def test_coefficients_follow_the_capsules_whose_lengths_are_the_output(images, labels):
    """Central differences of the objective of the right image, of which the left has no part."""
    model = siamese("l2", lambda left, right: length(right))
    layer = model.class_layer
    x = [0 * images, images]
    capsules = keras.Model(model.input, model.class_inputs)(x)
    b = values([layer.routing.coefficients])[0]

    def objective(coefficients):
        layer.routing.coefficients.assign(coefficients)
        gain = layer.routing.objective(capsules, ops.convert_to_tensor(layer.kernel), labels)
        return float(ops.convert_to_numpy(gain - layer.routing.penalty_term()))

    shift = np.zeros_like(b)
    shift[1, 2] = 1e-2
    slope = (objective(b + shift) - objective(b - shift)) / 2e-2
    layer.routing.coefficients.assign(b)
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=1.0)
    model.train_on_batch(x, labels)
    moved = values([layer.routing.coefficients])[0] - b
    assert abs(slope) > 1e-3
    assert moved[1, 2] == pytest.approx(slope, rel=1e-2)


def test_where_several_capsules_may_be_meant_it_is_an_error():
    def both(left, right):
        return keras.layers.Concatenate()([length(left), length(right)])

    siamese("dynamic", both).compile("sgd")  # nothing needs to know
    with pytest.raises(ValueError, match="l1 or l2 routing needs to know which capsules"):
        siamese("l2", both).compile("sgd")
    with pytest.raises(ValueError, match="`decoder` needs to know which capsules"):
        siamese("dynamic", both, decoder(CLASSES, 4, (6, 6, 1), (8,)))
    with pytest.raises(ValueError, match="`decoder` needs to know which capsules"):
        siamese("dynamic", lambda *p: [length(x) for x in p], decoder(CLASSES, 4, (6, 6, 1), (8,)))


def test_lengths_tell_which_of_two_capsule_layers_has_the_classes(images, labels):
    """The one of two heads with capsules whose lengths are an output is that of the classes."""
    image = keras.Input((6, 6, 1))
    x = primary(image)
    classes, others = DigitCaps(CLASSES, 4, routing="l2"), DigitCaps(5, 2)
    head = keras.layers.Dense(1)(keras.layers.Flatten()(others(x)))
    model = CapsNet(image, [length(classes(x)), head])
    assert model.class_layer is classes
    model.compile("sgd", loss=["margin", "mse"])
    history = model.fit(images, [labels, np.ones((12, 1))], verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_calls_are_found_in_the_order_of_the_graph():
    image = keras.Input((6, 6, 1))
    hidden = DigitCaps(5, 4, name="hidden")
    last = DigitCaps(3, 4, name="last")
    before = last(hidden(primary(keras.Input((6, 6, 1)))))
    poses = last(hidden(primary(image)))
    found = calls(length(poses), DigitCaps)
    assert [call.layer.name for call in found] == ["hidden", "last"]
    assert found[1].outputs[0] is poses and found[1].inputs[0] is found[0].outputs[0]
    assert [call.outputs[0] for call in class_calls(poses)] == [poses]
    assert [call.outputs[0] for call in class_calls([before, poses])] == [before, poses]
    assert class_calls(image) == []


def test_routing_is_traced_on_the_inputs_of_this_graph(images, labels, tmp_path):
    """By the callback, on a model with named inputs whose class layer another graph called."""
    pytest.importorskip("tensorflow")
    digits = DigitCaps(CLASSES, 4, name="digit_caps")
    digits(primary(keras.Input((6, 6, 1))))
    tensors = [keras.Input((6, 6, 1), name="wet"), keras.Input((6, 6, 1), name="dry")]
    lengths = length(digits(primary(keras.layers.Concatenate()(tensors))))
    model = CapsNet(tensors, lengths)
    x = {"dry": 1 - images, "wet": images}
    model.compile("sgd")
    seen = {"all": images[:4], **{k: v[:4] for k, v in x.items()}}
    callback = diagnostics.RoutingTensorBoard(seen, tmp_path)
    history = model.fit(x, labels, callbacks=[callback], verbose=0).history
    capsules = keras.Model(model.input, model.class_inputs)({k: v[:4] for k, v in x.items()})
    expected = diagnostics.trace_routing(digits, capsules)["entropy"]
    assert history["digit_caps/entropy_3"][-1] == pytest.approx(expected[-1], rel=1e-4)


def test_routing_of_a_layer_that_is_called_twice_cannot_be_traced(tmp_path):
    pytest.importorskip("tensorflow")

    def both(left, right):
        return keras.layers.Concatenate()([length(left), length(right)])

    callback = diagnostics.RoutingTensorBoard(np.zeros((2, 6, 6, 1)), tmp_path)
    with pytest.raises(ValueError, match="called more than once"):
        callback.set_model(siamese("dynamic", both))
