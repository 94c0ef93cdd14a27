"""Pictures of models: what is in their panels, beside what NumPy makes of poses and decoders."""

import os
import re
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from kcaps import visualization
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder
from kcaps.routing import ROUTINGS, DynamicRouting, Routing
from kcaps.visualization import drawing
from networks.small_capsnet import small_capsnet
from programs import BLOCKER, ROOT

PAGE = ROOT / "docs/visualization.md"
CLASSES, DIM = 3, 4
NAMES = ["ant", "bee", "cow"]


def network(shape=(6, 9, 1), routing="dynamic", with_decoder=True, num_classes=CLASSES):
    image = keras.Input(shape, name="image")
    capsules = PrimaryCaps(2, capsule_dim=3, kernel_size=3, strides=2)(image)
    poses = DigitCaps(num_classes, DIM, routing=routing, name="classes")(capsules)
    rebuilder = decoder(num_classes, DIM, shape, units=(8,)) if with_decoder else None
    return CapsNet(image, CapsuleLength()(poses), decoder=rebuilder)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, size=(12, 6, 9, 1)).astype("float32")


@pytest.fixture
def labels():
    return np.arange(12) % CLASSES


def poses_of(model, images):
    """Poses by the layers themselves, one after the other, and not by the graph that is drawn."""
    x = ops.convert_to_tensor(images.astype("float32"))
    for layer in model.layers[1:-1]:
        x = layer(x)
    return ops.convert_to_numpy(x)


def decoded(model, poses):
    """The decoder in NumPy, from its weights."""
    x = poses.reshape(len(poses), -1)
    *hidden, last = [layer for layer in model.decoder.layers if layer.weights]
    for layer in hidden:
        kernel, bias = layer.get_weights()
        x = np.maximum(x @ kernel + bias, 0)
    kernel, bias = last.get_weights()
    x = 255 / (1 + np.exp(-(x @ kernel + bias)))
    return x.reshape(-1, *model.input.shape[1:])


def alone(poses, classes):
    """Poses of which all are zero but those of one class an example."""
    masked = np.zeros_like(poses)
    each = np.arange(len(poses))
    masked[each, classes] = poses[each, classes]
    return masked


def contents(figure, rows):
    """What the panels of a figure show, row by row: arrays of gray or of colours."""
    panels = [np.ma.getdata(axis.images[0].get_array()) for axis in figure.axes]
    return np.array(panels).reshape(rows, -1, *panels[0].shape)


def close(received, expected, tolerance=2e-3):
    np.testing.assert_allclose(received, expected, atol=tolerance)


def test_reconstructions_are_those_of_the_longest_capsules(model, images):
    poses = poses_of(model, images)[:5]
    lengths = np.linalg.norm(poses, axis=-1)
    longest = lengths.argmax(-1)
    figure = visualization.reconstructions(model, images, class_names=NAMES, num_images=5)
    shown, rebuilt = contents(figure, 2)
    close(shown, images[:5, ..., 0], 0)
    close(rebuilt, decoded(model, alone(poses, longest))[..., 0])
    captions = [axis.get_xlabel() for axis in figure.axes[5:]]
    assert captions == [f"{NAMES[k]}: {lengths[n, k]:.2f}" for n, k in enumerate(longest)]
    assert [axis.get_title() for axis in figure.axes] == [""] * 10
    assert [figure.axes[n].get_ylabel() for n in (0, 5)] == ["image", "rebuilt"]


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_reconstructions_of_labels(model, images, labels, form):
    given = {"integers": labels, "column": labels[:, None], "one-hot": np.eye(CLASSES)[labels]}
    figure = visualization.reconstructions(model, images, given[form], NAMES, num_images=20)
    poses = poses_of(model, images)
    close(contents(figure, 2)[1], decoded(model, alone(poses, labels))[..., 0])
    assert [axis.get_title() for axis in figure.axes[:12]] == [NAMES[k] for k in labels]
    assert (np.linalg.norm(poses, axis=-1).argmax(-1) != labels).any()  # the other picture differs


def test_several_classes_are_rebuilt_together(model, images):
    present = np.tile([1, 0, 1], (12, 1))
    poses = poses_of(model, images) * present[:, :, None]
    figure = visualization.reconstructions(model, images, present, NAMES, num_images=2)
    close(contents(figure, 2)[1], decoded(model, poses[:2])[..., 0])
    assert figure.axes[0].get_title() == "ant, cow"


def test_dimensions_are_varied_over_their_own_spread(model, images, labels):
    deviations = 1.5
    figure = visualization.dimensions(
        model, images, labels, NAMES, classes=[2, 0], num_components=2, deviations=deviations
    )
    shown = contents(figure, 5)  # rows, columns, height, width
    headings = [axis.get_title() for axis in figure.axes[:4]]
    poses = poses_of(model, images)
    for start, label in ((0, 2), (2, 0)):
        members = np.flatnonzero(labels == label)
        own = poses[members, label]
        mean, deviation = own.mean(0), own.std(0)
        example = members[np.square(own - mean).sum(-1).argmin()]
        effects, columns = [], []
        for component in range(DIM):
            varied = np.zeros((3, CLASSES, DIM), "float32")
            varied[:, label] = poses[example, label]
            for step, share in enumerate((-deviations, 0, deviations)):
                varied[step, label, component] = mean[component] + share * deviation[component]
            columns.append(decoded(model, varied)[..., 0])
            effects.append(np.square(columns[-1][2] - columns[-1][0]).sum())
        widest = np.argsort(effects)[::-1][:2]
        for column, component in enumerate(widest, start):
            close(shown[0, column], images[example, ..., 0], 0)
            rebuilt = decoded(model, alone(poses[[example]], [label]))[0, ..., 0]
            close(shown[1, column], rebuilt)
            close(shown[2:, column], columns[component])
            assert headings[column] == f"{NAMES[label]}\ncomponent {component}"
    rows = [axis.get_ylabel() for axis in figure.axes[::4]]
    assert rows == ["image", "rebuilt", "mean - 1.5 σ", "mean", "mean + 1.5 σ"]


def test_dimensions_take_the_classes_that_have_images(model, images):
    longest = np.linalg.norm(poses_of(model, images), axis=-1).argmax(-1)
    known = [NAMES[k] for k in range(CLASSES) if np.sum(longest == k) > 1]
    figure = visualization.dimensions(model, images, class_names=NAMES)
    names = [axis.get_title().split("\n")[0] for axis in figure.axes[: len(known)]]
    assert names == known and len(figure.axes) == 5 * len(known)
    figure = visualization.dimensions(model, images, [0] * 11 + [1])
    assert len(figure.axes) == 5 and figure.axes[0].get_title().startswith("0\n")


def test_dimensions_are_of_the_six_classes_that_change_most(images):
    model = network(num_classes=8)
    labels = np.arange(24) % 8
    images = np.concatenate([images, images[::-1]])
    figure = visualization.dimensions(model, images, labels, classes=range(8))
    shown = contents(figure, 5)
    effects = np.square(shown[4] - shown[2]).mean((1, 2))
    widest = np.sort(np.argsort(-effects)[:6])
    figure = visualization.dimensions(model, images, labels)
    assert [int(axis.get_title()[0]) for axis in figure.axes[:6]] == list(widest)
    close(contents(figure, 5), shown[:, widest], 1e-4)


@pytest.mark.parametrize(("shape", "unit"), [((9, 6, 3), 255), ((20, 18, 3), 1), ((16, 17, 1), 1)])
def test_channels_sizes_and_units(rng, shape, unit):
    """Colours are shown as they are, in images of any side and unit; small ones smoothly."""
    model = network(shape)
    x = rng.uniform(0, unit, size=(4, *shape)).astype("float32")
    figure = visualization.reconstructions(model, x)
    shown, _ = contents(figure, 2)
    picture = figure.axes[0].images[0]
    assert picture.get_interpolation() == ("bicubic" if min(shape[:2]) < 16 else "nearest")
    if shape[-1] == 1:
        close(shown, x[..., 0], 0)
        assert picture.get_clim() == (0, unit)
    else:
        close(shown, x / unit, 1e-6)
    box = figure.axes[0].get_data_ratio()
    assert box == pytest.approx(shape[0] / shape[1])


def test_limits():
    assert drawing.limits_of(np.zeros(3, "uint8")) == (0, 255)
    assert drawing.limits_of(np.array([0.0, 1.0])) == (0, 1)
    assert drawing.limits_of(np.array([0.0, 1.5])) == (0, 255)
    assert drawing.limits_of(np.array([-2.0, 1.5])) == (-2, 1.5)
    assert drawing.limits_of(np.array([-3.0])) == (-3, -2)


def couplings_by_hand(layer, capsules):
    """Couplings of dynamic routing as the paper's procedure has them, in NumPy."""
    votes = np.einsum("bik,ikjd->bijd", capsules, ops.convert_to_numpy(layer.kernel))
    logits = np.zeros(votes.shape[:3])
    for iteration in range(layer.routing.num_iterations):
        couplings = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        sums = np.einsum("bij,bijd->bjd", couplings, votes)
        squared = np.square(sums).sum(-1, keepdims=True)
        poses = sums * np.sqrt(squared) / (1 + squared)
        if iteration < layer.routing.num_iterations - 1:
            logits = logits + np.einsum("bijd,bjd->bij", votes, poses)
    return couplings


def test_couplings_of_dynamic_routing(images):
    model = network(routing=DynamicRouting(4))
    layer = model.class_layer
    layer.kernel.assign(4 * ops.convert_to_numpy(layer.kernel))  # couplings that differ
    capsules = ops.convert_to_numpy(model.layers[1](ops.convert_to_tensor(images[:3])))
    expected = couplings_by_hand(layer, capsules)
    figure = visualization.couplings(model, images, NAMES, num_images=3)
    close(contents_of(figure, 3), expected, 1e-5)
    assert np.ptp(expected, axis=0).max() > 0.05
    assert figure.get_suptitle().endswith(
        "DynamicRouting: those of the last iteration, for each image its own"
    )
    longest = np.linalg.norm(poses_of(model, images), axis=-1).argmax(-1)
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        f"longest: {NAMES[k]}" for k in longest[:3]
    ]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == NAMES


def contents_of(figure, count):
    return np.array([axis.images[0].get_array() for axis in figure.axes[:count]])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_couplings_of_all_routings(images, routing):
    """One panel where no image changes the couplings, and a title that says which they are."""
    model = network(routing=routing)
    layer = model.class_layer
    is_fixed = routing in ("uniform", "l1", "l2")
    figure = visualization.couplings(model, images, num_images=3)
    shown = contents_of(figure, 1 if is_fixed else 3)
    assert len(figure.axes) == len(shown) + 1 and shown.shape[1:] == (16, CLASSES)  # a scale, too
    title = figure.get_suptitle()
    if is_fixed:
        assert "all equal, 0.333; nothing is routed" in title
        close(shown, 1 / 3, 1e-6)
        assert ("learned, but still" in title) == (routing != "uniform")
    else:
        assert "for each image its own" in title
    if routing in ("l1", "l2"):
        values = np.linspace(-2, 1, 48).reshape(16, 3)
        layer.routing.coefficients.assign(values)
        figure = visualization.couplings(model, images)
        close(contents_of(figure, 1)[0], values, 1e-6)
        assert "learned, the same for every image, to be folded" in figure.get_suptitle()
        assert figure.axes[0].images[0].get_clim() == (-2, 2)


def test_capsules_are_lengths_and_principal_components(model, images, labels):
    figure = visualization.capsules(model, images, labels, NAMES)
    poses = poses_of(model, images)
    lengths = np.linalg.norm(poses, axis=-1)
    expected = [lengths[labels == k].mean(0) for k in range(CLASSES)]
    close(figure.axes[0].images[0].get_array(), expected, 1e-5)
    flat = poses.reshape(len(poses), -1).astype("float64")
    centred = flat - flat.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, [-1, -2]]
    scatter = figure.axes[1].collections
    assert [points.get_label() for points in scatter] == NAMES
    for k, points in enumerate(scatter):
        # Principal components are known but for their signs.
        close(np.abs(points.get_offsets()), np.abs(expected[labels == k]), 1e-4)
    share = round(100 * values[-1] / values.sum())
    assert figure.axes[1].get_xlabel() == f"first component ({share} % of the variance)"


def test_capsules_without_labels_and_with_a_class_that_no_image_has(model, images):
    longest = np.linalg.norm(poses_of(model, images), axis=-1).argmax(-1)
    figure = visualization.capsules(model, images)
    means = figure.axes[0].images[0].get_array()
    empty = ~np.isin(np.arange(CLASSES), longest)
    np.testing.assert_array_equal(np.ma.getmaskarray(means).all(-1), empty)
    found = {points.get_label(): len(points.get_offsets()) for points in figure.axes[1].collections}
    assert found == {str(k): np.sum(longest == k) for k in np.unique(longest)}


def test_confusion(model, images, labels):
    predicted = model.predict(images, verbose=0).argmax(-1)
    expected = np.zeros((CLASSES, CLASSES), int)
    np.add.at(expected, (labels, predicted), 1)
    figure = visualization.confusion(model, images, np.eye(CLASSES)[labels], NAMES)
    (axis,) = figure.axes
    np.testing.assert_array_equal(axis.images[0].get_array(), expected)
    assert [text.get_text() for text in axis.texts] == [str(n) for n in expected.flat]
    right = np.trace(expected)
    assert figure.get_suptitle() == f"Confusion matrix of 12 images, {right} of them right"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "class")
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [text.get_text() for text in ticks] == NAMES


def test_confusion_of_other_models(images, labels):
    """A model without capsules, one with two outputs, and one with a class alone."""
    image = keras.Input((6, 9, 1))
    flat = keras.layers.Flatten()(image)
    scores = keras.layers.Dense(CLASSES)(flat)
    dense = keras.Model(image, scores)
    figure = visualization.confusion(dense, images, labels)
    predicted = dense.predict(images, verbose=0).argmax(-1)
    assert figure.axes[0].images[0].get_array()[1, 2] == np.sum((labels == 1) & (predicted == 2))
    poses = DigitCaps(CLASSES, DIM)(PrimaryCaps(2, 3, 3)(image))
    both = CapsNet(image, [scores, CapsuleLength()(poses)])
    found = both.predict(images, verbose=0)[1].argmax(-1)
    counts = visualization.confusion(both, images, labels).axes[0].images[0].get_array()
    np.testing.assert_array_equal(counts.sum(0), np.bincount(found, minlength=CLASSES))
    with pytest.raises(ValueError, match="one output .* Received: outputs of shapes"):
        visualization.confusion(keras.Model(image, [scores, flat]), images, labels)
    single = CapsNet(image, CapsuleLength()(DigitCaps(1, DIM)(PrimaryCaps(2, 3, 3)(image))))
    is_there = single.predict(images, verbose=0)[:, 0] >= 0.5
    figure = visualization.confusion(single, images, labels == 1, ["bee"])
    counts = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(counts.sum(0), [np.sum(~is_there), np.sum(is_there)])
    assert counts[1].sum() == 4
    assert [x.get_text() for x in figure.axes[0].get_xticklabels()] == ["not bee", "bee"]


def test_names_are_no_formulas(model, images, labels, tmp_path):
    """Between two dollars Matplotlib would read a formula, and end at one that it cannot read."""
    names = ["$\\bee$", "a$ and b$", "$"]
    for figure in (
        visualization.confusion(model, images, labels, names),
        visualization.reconstructions(model, images, class_names=names),
    ):
        figure.savefig(tmp_path / "names.png")
    ticks = [
        text.get_text()
        for text in visualization.confusion(model, images, labels, names).axes[0].get_xticklabels()
    ]
    shown = [Text(text=text)._preprocess_math(text) for text in ticks]
    assert shown == [(name, False) for name in names]


def test_many_classes_have_no_names_nor_numbers():
    labels = np.arange(60) % 30
    figure = visualization.confusion_matrix(labels, labels, [f"class {n}" for n in range(30)])
    assert not figure.axes[0].texts and not list(figure.axes[0].get_xticks())
    assert len(figure.axes) == 2  # a scale in the place of the numbers


def test_a_model_with_several_inputs(rng, labels):
    image, other = keras.Input((6, 9, 1), name="z"), keras.Input((2,), name="a")
    capsules = PrimaryCaps(2, capsule_dim=3, kernel_size=3, strides=2)(image)
    moved = keras.layers.Add()(
        [capsules, keras.layers.RepeatVector(16)(keras.layers.Dense(3)(other))]
    )
    poses = DigitCaps(CLASSES, DIM)(moved)
    rebuilder = decoder(CLASSES, DIM, (6, 9, 1), units=(4,))
    model = CapsNet({"z": image, "a": other}, CapsuleLength()(poses), decoder=rebuilder)
    x = {"z": rng.uniform(size=(12, 6, 9, 1)), "a": rng.uniform(size=(12, 2))}
    shown, _ = contents(visualization.reconstructions(model, x), 2)
    close(shown, x["z"][:10, ..., 0], 1e-6)
    assert len(visualization.couplings(model, x, num_images=2).axes) == 3
    visualization.dimensions(model, x, labels)
    visualization.confusion(model, x, labels)


def test_half_precision(rng, labels):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = network()
    x = rng.uniform(0, 255, size=(12, 6, 9, 1))
    figure = visualization.reconstructions(model, x)
    assert figure.axes[-1].images[0].get_array().dtype == np.float32
    for draw in (visualization.dimensions, visualization.capsules, visualization.confusion):
        draw(model, x, labels)
    visualization.couplings(model, x)


def test_rows_of_images(rng):
    gray, colour = rng.uniform(size=(3, 4, 5, 1)), rng.uniform(size=(3, 4, 5, 3))
    figure = visualization.image_grid(
        {"gray": gray, "colour": colour}, "title", ["a", "b", "c"], {"colour": ["x", "y", "z"]}
    )
    assert figure.get_suptitle() == "title"
    for n in range(3):
        np.testing.assert_array_equal(figure.axes[n].images[0].get_array(), gray[n, ..., 0])
        close(figure.axes[3 + n].images[0].get_array(), colour[n], 1e-6)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "", "", ""]
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "", "", "x", "y", "z"]
    for rows in ({}, {"a": []}, {"a": gray, "b": gray[:2]}):
        with pytest.raises(ValueError, match="equally many images"):
            visualization.image_grid(rows)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda m, x, y: visualization.reconstructions(m, x[..., 0]), "`images` must be an array"),
        (lambda m, x, y: visualization.reconstructions(m, x[:0]), "at least one image"),
        (lambda m, x, y: visualization.capsules(m, np.repeat(x, 2, -1)), "1 or 3 channels"),
        (lambda m, x, y: visualization.reconstructions(m, x, y[:3]), "as many as the examples, 12"),
        (
            lambda m, x, y: visualization.reconstructions(m, x, y + 1),
            "0 to 2. Received: 3 for image 2",
        ),
        (lambda m, x, y: visualization.reconstructions(m, x, num_images=0), "`num_images`"),
        (lambda m, x, y: visualization.capsules(m, x, y, ["a"]), "`class_names` must be 3"),
        (lambda m, x, y: visualization.capsules(m, x[:1]), "two at least"),
        (lambda m, x, y: visualization.dimensions(m, x, y, classes=[3]), "from 0 to 2"),
        (lambda m, x, y: visualization.dimensions(m, x, y, classes=[]), "from 0 to 2"),
        (lambda m, x, y: visualization.dimensions(m, x, y * 0, classes=[1]), "0 of class 1"),
        (lambda m, x, y: visualization.dimensions(m, x[:3], y[:3]), "two of a class at least"),
        (lambda m, x, y: visualization.dimensions(m, x, num_components=5), "exceed the 4 compo"),
        (lambda m, x, y: visualization.dimensions(m, x, deviations=0), "`deviations`"),
        (lambda m, x, y: visualization.confusion(m, x, np.ones((12, 3))), "one class an image"),
        (lambda m, x, y: visualization.couplings(m, x, num_images=-1), "`num_images`"),
    ],
)
def test_what_does_not_fit_is_refused(model, images, labels, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(model, images, labels)


class _CallOnly(Routing):
    def call(self, inputs, kernel):
        return ops.mean(self.votes(inputs, kernel), axis=1)


def test_models_that_cannot_be_drawn(images):
    plain = network(with_decoder=False)
    for draw in (visualization.reconstructions, visualization.dimensions):
        with pytest.raises(ValueError, match="must have a decoder.*capsnet.* without"):
            draw(plain, images)
    visualization.capsules(plain, images)
    image = keras.Input((6, 9, 1))
    dense = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    for draw in (visualization.capsules, visualization.couplings):
        with pytest.raises(ValueError, match="with a DigitCaps in its own graph.*folded"):
            draw(dense, images)
    with pytest.raises(NotImplementedError, match="implements `iterate`.*_CallOnly in layer"):
        visualization.couplings(network(routing=_CallOnly()), images)


def test_pictures_are_the_same_each_time_and_leave_pyplot_alone(model, images, labels, tmp_path):
    figures = plt.get_fignums()
    for n, draw in enumerate(
        (
            lambda: visualization.reconstructions(model, images, labels, NAMES),
            lambda: visualization.dimensions(model, images, labels, NAMES),
            lambda: visualization.capsules(model, images, labels, NAMES),
            lambda: visualization.couplings(model, images, NAMES),
            lambda: visualization.confusion(model, images, labels, NAMES),
        )
    ):
        written = []
        for each in ("a", "b"):
            figure = draw()
            assert isinstance(figure, Figure)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                figure.savefig(tmp_path / f"{n}{each}.png", dpi=50)
            written.append((tmp_path / f"{n}{each}.png").read_bytes())
        assert written[0] == written[1] and len(written[0]) > 2000
    assert plt.get_fignums() == figures


def test_only_drawing_needs_matplotlib(tmp_path):
    """kcaps is imported without it; a picture names the extra that brings it."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    program = (
        "from kcaps import visualization as v, layers\n"
        "try:\n    v.image_grid({'a': [[[0.0]]]})\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "BLOCKED": "matplotlib", "PYTHONPATH": path}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "needs matplotlib, of the extra kcaps[" in result.stdout


def test_all_that_is_public_has_a_page():
    text = PAGE.read_text()
    for name in vars(visualization):
        if callable(getattr(visualization, name)):
            assert f"`{name}" in text, name


@pytest.mark.long
def test_the_guide_to_pictures(tmp_path, monkeypatch):
    """Its examples run in the order of the page, on the network of the recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt").mkdir()
    small_capsnet((8, 8, 1), 10).save("ckpt/model.keras")
    names = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(example, names)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("dimensions.png", "poses.png", "couplings.png")
    }
    for name in re.findall(r"!\[.*?\]\((.*?)\)", PAGE.read_text()):
        assert 3_000 < (PAGE.parent / name).stat().st_size < 300_000, name
