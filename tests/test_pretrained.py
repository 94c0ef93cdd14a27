"""Weights that come with kcaps: their files, what takes them, and what does not."""

import dataclasses
import json

import numpy as np
import pytest
from keras import ops

from kcaps.models import deep_capsnet, efficient_capsnet, pretrained

CLASSES = ("a", "b", "c")


def a_card(model, architecture, arguments, folder):
    """Writes the weights of a model and their card, and returns the card."""
    content = pretrained.to_file(model)
    card = pretrained.Card(
        architecture=architecture,
        weights="letters",
        sha256=pretrained.sha256_of(content),
        arguments=arguments,
        input_shape=tuple(model.input_shape[1:]),
        class_names=CLASSES,
        lengths_of_noise=(),
        test_accuracy=0.5,
        parameters=1,
        **dict.fromkeys(("data", "licence", "command", "commit", "date"), "none"),
    )
    (folder / f"{architecture}-letters.npz").write_bytes(content)
    (folder / "cards.json").write_text(json.dumps([dataclasses.asdict(card)]))
    return card


def outputs(model, images):
    return ops.convert_to_numpy(model(images))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def efficient(folder):
    model = efficient_capsnet((14, 15, 1), 3, decoder_units=(4,))
    a_card(model, "efficient_capsnet", {"routing": "self_attention"}, folder)
    return model


@pytest.fixture
def deep(folder):
    model = deep_capsnet((12, 12, 3), 3, widths=(8, 16))
    arguments = {"routing": "uniform", "widths": [8, 16], "convolutions": 2}
    a_card(model, "deep_capsnet", arguments | {"activation": "quick_gelu"}, folder)
    return model


def test_weights_are_those_of_the_trained_network(rng, efficient):
    images = rng.uniform(0, 255, (4, 14, 15, 1)).astype("float32")
    model = efficient_capsnet(weights="letters")
    np.testing.assert_allclose(outputs(model, images), outputs(efficient, images), atol=2e-3)
    for trained, loaded in zip(efficient.layers, model.layers, strict=False):
        for one, other in zip(trained.get_weights(), loaded.get_weights(), strict=True):
            exact = one if one.ndim < 2 else one.astype("float16").astype("float32")
            np.testing.assert_array_equal(exact, other)


def test_weights_under_a_decoder(rng, efficient):
    """The decoder is not part of them, and begins at random."""
    images = rng.uniform(0, 255, (4, 14, 15, 1)).astype("float32")
    models = [efficient_capsnet(weights="letters", decoder_units=units) for units in (None, (5,))]
    np.testing.assert_array_equal(*(outputs(model, images) for model in models))


def test_deep_weights_bring_the_sizes_of_their_network(rng, deep):
    images = rng.uniform(0, 255, (4, 12, 12, 3)).astype("float32")
    model = deep_capsnet(weights="letters")
    np.testing.assert_allclose(outputs(model, images), outputs(deep, images), atol=2e-3)


def test_deep_weights_take_images_of_another_size(rng, deep):
    """Their features are the strongest ones, wherever they are: nothing begins anew."""
    model = deep_capsnet(input_shape=(15, 13, 3), weights="letters")
    small = rng.uniform(0, 255, (4, 15, 13, 3)).astype("float32")
    assert outputs(model, small).shape == (4, 3)
    for one, other in zip(deep.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"num_classes": 5}, {"routing": "l2"}], ids=["classes", "routing"]
)
def test_class_capsules_begin_anew_for_another_task(deep, options):
    model = deep_capsnet(**options, weights="letters")
    pairs = zip(pretrained.below_classes(deep), pretrained.below_classes(model), strict=True)
    for pair in pairs:
        values = [ops.convert_to_numpy(variable.value) for variable in pair]
        np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-7)
    kernels = [ops.convert_to_numpy(x.class_layer.kernel.value) for x in (model, deep)]
    assert kernels[0].shape != kernels[1].shape or np.abs(np.subtract(*kernels)).max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "numbers"}, "must be one of: \"letters\". Received: weights='numbers'"),
        ({"widths": (8, 8)}, r"are for widths=\[8, 16\]. Received: widths=\(8, 8\)"),
        ({"convolutions": 3}, "are for convolutions=2. Received: convolutions=3"),
        ({"activation": "relu"}, "are for activation='quick_gelu'"),
        ({"input_shape": (12, 12, 1)}, r"are for images \(12, 12, 3\): whitening/bias"),
        ({"input_shape": (40, 40, 3)}, r"are for images \(12, 12, 3\)"),
    ],
)
def test_networks_that_do_not_take_them(deep, options, message):
    with pytest.raises(ValueError, match=message):
        deep_capsnet(**{"weights": "letters", **options})


def test_damaged_and_missing_files(efficient, folder):
    path = folder / "efficient_capsnet-letters.npz"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is"):
        efficient_capsnet(weights="letters")
    path.unlink()
    with pytest.raises(ValueError, match="is missing. Install kcaps again"):
        efficient_capsnet(weights="letters")


def test_without_weights(folder):
    assert pretrained.cards() == []
    with pytest.raises(ValueError, match="must be one of: none"):
        efficient_capsnet(weights="mnist")
    with pytest.raises(ValueError, match="`num_classes` is needed where there are no `weights`"):
        efficient_capsnet((28, 28, 1))
