"""Several objects in one image: targets with parts, and how well they are all found."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.metrics import ExactMatch
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder

CLASSES = 3


def network(routing="l2", with_decoder=True):
    image = keras.Input((8, 8, 1))
    capsules = PrimaryCaps(2, capsule_dim=4, kernel_size=3, strides=3)(image)
    poses = DigitCaps(CLASSES, capsule_dim=4, routing=routing)(capsules)
    return CapsNet(
        image,
        CapsuleLength()(poses),
        decoder=decoder(CLASSES, 4, (8, 8, 1), units=(8,)) if with_decoder else None,
        reconstruction_weight=1e-5,
    )


@pytest.fixture
def pairs(rng):
    parts = rng.uniform(0, 120, size=(12, 2, 8, 8, 1)).astype("float32")
    labels = np.stack([np.arange(12) % CLASSES, (np.arange(12) + 1) % CLASSES], axis=1)
    return parts.sum(1), {"labels": labels, "parts": parts}


def k_hot(labels):
    return np.eye(CLASSES)[labels].max(1)


def test_each_part_is_rebuilt_from_its_own_capsule(pairs):
    x, y = pairs
    model = network()
    model.compile("sgd")
    poses = ops.convert_to_numpy(keras.Model(model.input, model.class_layer.output)(x))
    total = 0.0
    for pose, labels, parts in zip(poses, y["labels"], y["parts"], strict=True):
        for label, part in zip(labels, parts, strict=True):
            masked = np.zeros_like(pose)
            masked[label] = pose[label]
            rebuilt = ops.convert_to_numpy(model.decoder(masked[None]))[0]
            total += 1e-5 * np.sum((part - rebuilt) ** 2)
    lengths, present = model.predict(x, verbose=0), k_hot(y["labels"])
    too_short, too_long = np.maximum(0.9 - lengths, 0) ** 2, np.maximum(lengths - 0.1, 0) ** 2
    margin = np.sum(present * too_short + 0.5 * (1 - present) * too_long) / 12
    found = model.evaluate(x, y, batch_size=12, verbose=0)
    assert found == pytest.approx(margin + total / 12, rel=1e-5)


@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_training_with_parts(pairs, update):
    x, y = pairs
    model = network()
    model.compile("adam", metrics=[ExactMatch()], update=update, routing_learning_rate=1e-3)
    history = model.fit(x, y, epochs=8, batch_size=6, validation_data=(x, y), verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    longest = np.argsort(model.predict(x, verbose=0), axis=1)[:, 1:]  # two of three classes
    expected = np.mean(np.all(np.sort(longest) == np.sort(y["labels"]), axis=1))
    assert history["val_exact_match"][-1] == pytest.approx(expected)


@pytest.mark.parametrize("routing", ["dynamic", "l1"])
def test_without_a_decoder_parts_are_classes_only(pairs, routing):
    x, y = pairs
    losses = []
    for targets in (y, k_hot(y["labels"])):
        keras.utils.set_random_seed(0)
        model = network(routing, with_decoder=False)
        model.compile("sgd", metrics=[ExactMatch()])
        losses.append(model.fit(x, targets, epochs=2, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_exact_match_counts_images_with_all_classes_found():
    metric = ExactMatch()
    y = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    lengths = np.array([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1], [0.2, 0.3, 0.9]])
    metric.update_state(y, lengths)
    assert float(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(y[1:2], lengths[1:2])
    assert float(metric.result()) == pytest.approx(2 / 4)
    metric.reset_state()
    metric.update_state(y, lengths, sample_weight=np.array([1.0, 3.0, 0.0]))
    assert float(metric.result()) == pytest.approx(1 / 4)
    one = ExactMatch(num_active=1)
    one.update_state(np.array([0, 1]), lengths[:2])
    assert float(one.result()) == pytest.approx(1 / 2)
    assert ExactMatch.from_config(one.get_config()).num_active == 1


def test_errors(pairs):
    x, y = pairs
    model = network()
    model.compile("sgd")
    with pytest.raises(ValueError, match="`y` as a dict must hold 'labels'.*Received: shapes"):
        model.evaluate(x, {"labels": y["labels"], "images": y["parts"]}, verbose=0)
    with pytest.raises(ValueError, match="`num_active` must be a positive integer"):
        ExactMatch(num_active=0)
