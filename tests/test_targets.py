"""Labels in the forms in which people hold them, and what is no label."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import kcaps
from kcaps.labels import k_hot
from kcaps.layers import CapsuleLength, CapsuleMask, DigitCaps, PrimaryCaps
from kcaps.losses import CLASSIFICATION_LOSSES, LOSSES
from kcaps.metrics import ExactMatch
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder
from kcaps.routing.discriminative import signed_labels


@pytest.fixture
def images(rng):
    return rng.uniform(size=(12, 6, 6, 1)).astype("float32")


def network(num_classes=3, routing="dynamic", with_decoder=False):
    image = keras.Input((6, 6, 1))
    poses = DigitCaps(num_classes, 4, routing=routing)(PrimaryCaps(4, 4, kernel_size=3)(image))
    rebuilt = decoder(num_classes, 4, (6, 6, 1), (8,)) if with_decoder else None
    model = CapsNet(image, CapsuleLength()(poses), decoder=rebuilt)
    model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"], routing_learning_rate=1e-3)
    return model


class Series:
    """A column of a table, as NumPy sees it: an object with a shape that can become an array."""

    def __init__(self, values):
        self.array = np.asarray(values)
        self.shape, self.dtype = self.array.shape, self.array.dtype

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype or self.array.dtype)


# A single class


def test_the_margin_loss_of_one_class():
    for labels in ([0, 1], [[0], [1]]):
        loss = LOSSES["margin"]()(np.array(labels), np.array([[0.2], [0.7]]))
        assert float(ops.convert_to_numpy(loss)) == pytest.approx((0.5 * 0.1**2 + 0.2**2) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_both_forms_of_labels_of_one_class_have_the_same_loss(name):
    has_softmax = "activation" in LOSSES[name]().get_config()
    options = {"activation": "sigmoid"} if has_softmax else {}  # of one number, softmax is 1
    loss = LOSSES[name](reduction="none", **options)
    lengths = np.array([[0.2], [0.7], [0.4]], "float32")
    matrix = ops.convert_to_numpy(loss(np.array([[0], [1], [1]]), lengths))
    for labels in ([0, 1, 1], np.array([0.0, 1.0, 1.0])):
        found = ops.convert_to_numpy(loss.call(ops.convert_to_tensor(labels), lengths))
        np.testing.assert_array_equal(found, matrix)
    if name not in CLASSIFICATION_LOSSES:
        return
    function = getattr(kcaps.losses, name)
    found = ops.convert_to_numpy(function([0, 1, 1], lengths, **options))
    np.testing.assert_array_equal(found, matrix)


def test_masks_metrics_and_signs_of_one_class(rng):
    poses = rng.normal(size=(3, 1, 4)).astype("float32")
    for labels in (np.array([0, 1, 1]), np.array([[0], [1], [1]])):
        masked = ops.convert_to_numpy(CapsuleMask()(poses, labels=labels))
        np.testing.assert_array_equal(masked, poses * np.array([0, 1, 1])[:, None, None])
        signs = ops.convert_to_numpy(signed_labels(labels, 1, balanced=False))
        np.testing.assert_array_equal(signs, [[-1], [1], [1]])
        balanced = ops.convert_to_numpy(signed_labels(labels, 1, balanced=True))
        np.testing.assert_array_equal(balanced, [[-1], [1], [1]])
        metric = ExactMatch(num_active=1)
        metric.update_state(labels, np.full((3, 1), 0.5))
        assert float(metric.result()) == pytest.approx(2 / 3)


@pytest.mark.compiled
@pytest.mark.parametrize(("routing", "with_decoder"), [("l2", False), ("dynamic", True)])
def test_a_network_of_one_class_trains_the_same_on_both_forms(images, routing, with_decoder):
    labels = (images.mean((1, 2, 3)) > 0.5).astype("int64")
    results = []
    for y in (labels, labels[:, None], labels.tolist()):
        keras.utils.set_random_seed(1)
        model = network(1, routing, with_decoder)
        history = model.fit(images, y, epochs=2, shuffle=False, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        results.append(model.get_weights())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    model.fit(images, labels, verbose=0)  # and one model on both, in turn
    model.fit(images, labels[:, None], verbose=0)


def test_the_coefficients_of_one_class_grow_with_what_is_present(images):
    def size(model):
        return np.abs(ops.convert_to_numpy(model.routing_variables[0])).sum()

    model = network(1, "l2")
    before = size(model)
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=1e-2)
    model.fit(images, np.ones(12), epochs=3, verbose=0)
    grown = size(model)
    model.fit(images, np.zeros(12), epochs=6, verbose=0)
    assert grown > before > size(model)


@pytest.mark.parametrize("wrong", [2, -1, 1.5, np.nan])
def test_other_numbers_of_one_class_are_no_labels(images, wrong):
    labels = np.array([0, 1] * 6, "float64")
    labels[3] = wrong
    for form in (labels, labels[:, None]):
        assert np.isnan(ops.convert_to_numpy(k_hot(form, 1))[3]).all()
        with pytest.raises(ValueError, match="`y` must hold 0 and 1"):
            network(1).fit(images, form, verbose=0)


# Forms


def forms(labels):
    """Labels as a list, a column of a table and a tensor."""
    return [labels.tolist(), Series(labels), ops.convert_to_tensor(labels)]


@pytest.mark.compiled
def test_every_form_of_labels_trains_the_same(images):
    labels, results = np.arange(12) % 3, []
    for y in (labels, labels.tolist(), list(labels), ops.convert_to_tensor(labels)):
        keras.utils.set_random_seed(1)
        model = network()
        held_out = (images[:4], y[:4])
        model.fit(images, y, validation_data=held_out, epochs=2, shuffle=False, verbose=0)
        results.append((model.get_weights()[0], model.evaluate(images, y, verbose=0)))
    for kernel, scores in results[1:]:
        np.testing.assert_array_equal(kernel, results[0][0])
        np.testing.assert_allclose(scores, results[0][1], rtol=1e-6)


@pytest.mark.parametrize("form", range(3))
def test_every_form_is_checked(images, form):
    right, wrong = np.arange(12) % 3, np.arange(12) % 4
    model = network()
    before = model.get_weights()
    y = forms(wrong)[form]
    match = "`y` must hold classes from 0 to 2. Received: 3 other numbers, such as 3"
    with pytest.raises(ValueError, match=match):
        model.fit(images, y, verbose=0)
    for held_out in ((images, y), [images, y], (images, y, np.ones(12))):
        with pytest.raises(ValueError, match=match):
            model.fit(images, right, validation_data=held_out, verbose=0)
    with pytest.raises(ValueError, match=match):
        model.fit(images, right, 4, 1, 0, None, 0.0, (images, y))
    with pytest.raises(ValueError, match=match):
        model.evaluate(images, y, verbose=0)
    for step in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=match):
            step(images, y)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["U", "S", "O"])
def test_text_is_told_to_be_numbered(images, kind):
    text = np.array(["cat", "dog", "emu"] * 4).astype(kind)
    model = network()
    for y in (text, text.tolist(), Series(text)):
        with pytest.raises(ValueError, match="must hold the numbers of classes.*numpy.unique"):
            model.fit(images, y, verbose=0)
    with pytest.raises(ValueError, match="must hold the numbers of classes.*numpy.unique"):
        model.evaluate(images, text, verbose=0)
    with pytest.raises(ValueError, match="must hold the numbers of classes.*numpy.unique"):
        LOSSES["margin"]().call(text, np.zeros((12, 3)))


@pytest.mark.parametrize("with_decoder", [False, True])
def test_labels_that_were_forgotten(images, with_decoder):
    model = network(with_decoder=with_decoder)
    for run in (
        lambda: model.fit(images, verbose=0),
        lambda: model.evaluate(images, verbose=0),
        lambda: model.fit(images, np.zeros(12), validation_data=(images, None), verbose=0),
        lambda: model.train_on_batch(images),
    ):
        with pytest.raises(ValueError, match="`y` must be the labels of the examples"):
            run()


def test_targets_by_the_name_of_the_only_output(images):
    labels, losses = np.arange(12) % 3, []
    for form in (labels, None):
        keras.utils.set_random_seed(1)
        model = network(routing="l2", with_decoder=True)
        y = {model.output_names[0]: labels.tolist()} if form is None else form
        history = model.fit(images, y, validation_data=(images, y), shuffle=False, verbose=0)
        losses.append([*history.history["loss"], *history.history["val_loss"]])
    np.testing.assert_allclose(*losses, rtol=1e-6)
    with pytest.raises(ValueError, match="`y` as a dict must hold 'labels'"):
        model.fit(images, {"label": labels, "part": images[:, None]}, verbose=0)


def test_a_head_of_another_task_is_not_taken_for_classes(images):
    """Without a decoder or objective, targets are what the loss makes of them."""

    def gaussian(y, outputs):
        mean, log_variance = outputs[:, :1], outputs[:, 1:]
        return ops.mean(log_variance + ops.square(y - mean) * ops.exp(-log_variance), axis=-1)

    ages = np.linspace(0.0, 70.0, 12)[:, None]
    for num_capsules, units, loss in ((2, 2, gaussian), (3, 2, gaussian), (1, 1, "mse")):
        image = keras.Input((6, 6, 1))
        poses = DigitCaps(num_capsules, 4)(PrimaryCaps(4, 4, kernel_size=3)(image))
        model = CapsNet(image, keras.layers.Dense(units)(keras.layers.Flatten()(poses)))
        model.compile(keras.optimizers.SGD(1e-4), loss=loss)
        assert np.isfinite(model.fit(images, ages, verbose=0).history["loss"]).all()


@pytest.mark.tensorflow
def test_labels_with_one_axis_and_with_two_in_turn(images):
    """TensorFlow forgets their rank: of a single class it is known, of several it is told."""
    import tensorflow as tf

    flags, columns = np.arange(12) % 2, (np.arange(12) % 2)[:, None]
    model = network(1, "l2", with_decoder=True)
    for labels in (flags, columns, flags):
        data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
        loss = model.fit(data, shuffle=False, verbose=0).history["loss"]
        assert np.isfinite(loss).all()
    model = network(3, "l2", with_decoder=True)
    model.fit(images, flags, verbose=0)
    with pytest.raises(ValueError, match="came in several shapes"):
        model.fit(images, columns, verbose=0)


@pytest.mark.tensorflow
def test_text_in_a_dataset_is_told_to_be_numbered(images):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((images, ["cat", "dog", "emu"] * 4)).batch(4)
    image = keras.Input((6, 6, 1))
    model = CapsNet(image, CapsuleLength()(DigitCaps(3, 4)(PrimaryCaps(4, 4, 3)(image))))
    model.compile("sgd")
    with pytest.raises(ValueError, match="must hold the numbers of classes"):
        model.fit(data, shuffle=False, verbose=0)


def test_smoothed_labels_are_for_losses_alone(images):
    smoothed = np.eye(3)[np.arange(12) % 3] * 0.8 + 0.2 / 3
    assert np.isfinite(network().fit(images, smoothed, verbose=0).history["loss"]).all()
    for model in (network(routing="l2"), network(with_decoder=True)):
        with pytest.raises(ValueError, match="`y` must hold 0 and 1"):
            model.fit(images, smoothed, verbose=0)
        model.evaluate(images, smoothed, verbose=0)  # where the longest capsules are decoded


def test_ignored_classes_are_ignored_unless_labels_are_needed(images):
    labels = np.arange(12) % 3
    labels[:2] = -1
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    model = network()
    model.compile("sgd", loss=loss)
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()
    model = network(with_decoder=True)
    model.compile("sgd", loss=loss)
    with pytest.raises(ValueError, match="`y` must hold classes from 0 to 2"):
        model.fit(images, labels, verbose=0)


def test_signs_and_masks_of_numbers_that_are_no_classes_are_nan(rng):
    poses = rng.normal(size=(2, 3, 4)).astype("float32")
    for labels in (np.array([1, 3]), np.array([[0, 1, 0], [0, 0.5, 0]])):
        signs = ops.convert_to_numpy(signed_labels(labels, 3, balanced=True))
        np.testing.assert_array_equal(signs[0], [-1, 2, -1])
        assert np.isnan(signs[1]).all()
        masked = ops.convert_to_numpy(CapsuleMask()(poses, labels=labels))
        np.testing.assert_array_equal(masked[0], poses[0] * np.array([0, 1, 0])[:, None])
        assert np.isnan(masked[1]).all()


# Pixels


def pixels(rng, largest, dtype="float32"):
    return (rng.uniform(size=(6, 17, 17, 1)) * largest).astype(dtype)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "train_on_batch"])
def test_pixels_from_0_to_1_are_warned_of_once(rng, method):
    model = kcaps.models.capsnet((17, 17, 1), 2, filters=2, num_primary_capsules=1)
    model.compile("sgd")
    y = () if method == "predict" else (np.arange(6) % 2,)
    options = {} if method == "train_on_batch" else {"verbose": 0}
    run = functools.partial(getattr(model, method), **options)
    with pytest.warns(UserWarning, match="takes raw pixels from 0 to 255.*images with pixels"):
        run(pixels(rng, 1.0), *y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(pixels(rng, 1.0), *y)


def test_other_pixels_are_not_warned_of(rng, images):
    models = [
        kcaps.models.capsnet((17, 17, 1), 2, filters=2, num_primary_capsules=1),
        kcaps.models.efficient_capsnet((17, 17, 1), 2, num_primary_capsules=2),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for model in models:
            model.predict(pixels(rng, 255), verbose=0)
            model.predict(pixels(rng, 255, "uint8"), verbose=0)
            model.predict(np.zeros((2, 17, 17, 1)), verbose=0)  # black
        network().predict(images, verbose=0)  # a network that divides nothing
    with pytest.warns(UserWarning, match="takes raw pixels"):
        models[1].predict(pixels(rng, 1.0), verbose=0)


def test_a_deep_network_is_given_the_pixels_that_it_whitens(rng):
    """Raw ones before `adapt` and where it saw raw ones, as the networks that come with weights."""

    def deep(adapted_to=None):
        model = kcaps.models.deep_capsnet((17, 17, 1), 2, widths=(4,))
        if adapted_to is not None:
            model.get_layer("whitening").adapt(pixels(rng, adapted_to))
        return model

    for model, mean in ((deep(), "128"), (deep(255), r"1\d\d")):
        message = f"subtracts a mean of {mean} from its inputs: it takes raw pixels from 0 to 255.*"
        with pytest.warns(UserWarning, match=f"{message}'whitening' can be adapted"):
            model.predict(pixels(rng, 1.0), verbose=0)
    late = deep()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        deep(1.0).predict(pixels(rng, 1.0), verbose=0)
        late.predict(pixels(rng, 255), verbose=0)
        late.get_layer("whitening").adapt(pixels(rng, 1.0))
        late.predict(pixels(rng, 1.0), verbose=0)


def test_pixels_are_looked_at_in_each_form_of_inputs(rng):
    """By name beside a surplus input, with a pixel that is NaN, and behind a shared layer."""
    rescaling = keras.layers.Rescaling(1 / 255)
    rescaling(keras.Input((17, 17, 1)))
    image = keras.Input((17, 17, 1), name="image")
    maps = keras.layers.AveragePooling2D(4)(rescaling(image))
    lengths = CapsuleLength()(DigitCaps(2, 2)(PrimaryCaps(1, 2, 3)(maps)))
    spoilt = pixels(rng, 1.0)
    spoilt[0, 0, 0] = np.nan
    for x in ({"image": pixels(rng, 1.0), "other": np.zeros(6)}, [pixels(rng, 1.0)], spoilt):
        with pytest.warns(UserWarning, match="takes raw pixels from 0 to 255"):
            CapsNet(image, lengths).predict(x, verbose=0)


def test_the_summary_leads_those_with_large_images_on():
    def summary(model):
        lines = []
        model.summary(print_fn=lambda line, **_: lines.append(str(line)))
        return "\n".join(lines)

    large = summary(kcaps.models.capsnet((96, 96, 3), 5))
    assert "Note: digit_caps has 32,768,000 weights" in large and "docs/networks.md" in large
    lines = []
    model = kcaps.models.capsnet((96, 96, 3), 5, decoder_units=None)
    model.summary(80, None, lambda line, **_: lines.append(str(line)))
    assert "docs/networks.md" in "\n".join(lines)
    assert "Note:" not in summary(kcaps.models.capsnet((28, 28, 1), 10))
