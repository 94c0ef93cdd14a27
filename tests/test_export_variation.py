"""Dead models and tiny outputs: relative differences, and warnings of outputs that hardly vary."""

import json

import keras
import numpy as np
import pytest

import export.graph
import export.onnx
import export.saved_model
from export import checkpoint, parity, verify
from export.comparing import darker
from export.images import Images
from export.onnx import export_onnx
from export.report import report_path
from export.saved_model import export_saved_model
from export.variation import LEAST_SPREAD, steady_outputs
from exporting import change_a_weight, small
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import capsnet, efficient_capsnet
from kcaps.routing import ROUTINGS

DIFFERENT = np.arange(3.0)[:, None]


def scaled(scale, routing="dynamic"):
    """Capsules on pixels of that scale."""
    image = keras.Input((8, 8, 1))
    capsules = PrimaryCaps(4, 4, 3)(keras.layers.Rescaling(scale)(image))
    return keras.Model(image, CapsuleLength()(DigitCaps(3, 4, routing=routing)(capsules)))


def named(comparison):
    return [steady.output for steady in comparison.steady]


def compared(expected, received, tolerance=1e-5, **options):
    """Compares constant functions of images that are all different."""

    def model(values):
        return lambda x: {"a": np.asarray(values, "float64")[x[:, 0].astype(int)]}

    return parity.compare(
        model(expected), model(received), DIFFERENT, tolerance, same_classes=False, **options
    )


@pytest.mark.parametrize(
    ("values", "error", "passed"),
    [
        (1e-9, 0.9e-12, True),
        (1e-9, 1.2e-12, False),
        (1e-12, 1e-12, False),
        (1e-3, 0.9e-6, True),
        (1e-3, 1.2e-6, False),
        (0.5, 0.9e-5, True),  # there the absolute tolerance is the narrower one
        (1e-20, 1e-19, True),  # too small to be relative numbers
    ],
)
def test_relative_differences(values, error, passed):
    expected = values * np.array([[1, 0], [0.5, 0], [0.25, 0]])
    comparison = compared(expected, expected + [0, error])
    assert [row.passed for row in comparison.rows] == [passed] * 3 + [True]
    assert comparison.rows[0].relative == pytest.approx(error / max(values, 1e-15), rel=1e-3)
    assert comparison.largest_relative_difference == comparison.rows[0].relative
    if not passed:
        with pytest.raises(parity.ParityError, match=r"a differs .* of its largest value"):
            comparison.verify()


def test_relative_to_the_largest_value_over_all_images():
    """The first image alone has values of 1e-9, and a difference of the same size."""
    expected = np.array([[1e-9, 0], [1e-3, 0], [0.1, 0]])
    comparison = compared(expected, expected + [1e-9, 0])
    assert all(row.passed for row in comparison.rows)
    assert [row.relative for row in comparison.rows[:3]] == pytest.approx([1e-8] * 3)


def test_outputs_of_zeros_have_no_relative_difference():
    comparison = compared(np.zeros((3, 2)), np.full((3, 2), 1e-6))
    assert all(row.passed and row.relative is None for row in comparison.rows)
    assert comparison.largest_relative_difference is None
    assert comparison.summary == "largest difference 1.0e-06" and named(comparison) == ["a"]
    assert not compared(np.zeros((3, 2)), np.full((3, 2), 2e-5)).rows[0].passed


def test_the_relative_limit_follows_from_the_tolerance():
    limits = {1e-7: 1e-5, 1e-5: 1e-3, 1e-4: 1e-2, 0.01: 0.1, 1.0: 1.0}
    for tolerance, limit in limits.items():
        assert parity.relative_limit(tolerance) == pytest.approx(limit)


def test_what_a_row_and_the_summary_say():
    expected = np.array([[0.5, 0], [0.25, 0], [0.125, 0]])
    comparison = compared(expected, expected + 2.0**-20)
    assert str(comparison.rows[0]).endswith("9.5e-07, relative 1.9e-06")
    assert comparison.summary == "largest difference 9.5e-07, relative 1.9e-06"
    assert comparison.warnings == []


def test_outputs_that_hardly_vary():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(20, 4))
    outputs = {
        "alive": images,
        "one_component": np.pad(images[:, :1], ((0, 0), (0, 3)), constant_values=7.0),
        "zero": 0 * images,
        "tiny": 1e-12 * images,
        "constant": 0 * images + 0.3,
        "rounded": 0.3 + 1e-7 * images,
        "large": 250 + 1e-3 * images,
        "large_alive": 250 + 0.1 * images,
        "vectors": np.zeros((20, 3, 4)),
    }
    found = [steady.output for steady in steady_outputs(outputs, images)]
    assert found == ["zero", "tiny", "constant", "rounded", "large", "vectors"]
    (steady,) = steady_outputs({"tiny": 1e-12 * images}, images)
    assert steady.largest == 1e-12 * images.max()
    assert steady.spread == pytest.approx(1e-12 * np.ptp(images, axis=0).max())
    for spread, count in ((0.9 * LEAST_SPREAD, 1), (1.1 * LEAST_SPREAD, 0)):
        assert len(steady_outputs({"a": np.array([[0.5], [0.5 + spread]])}, images[:2])) == count


def test_images_that_are_all_the_same_cannot_vary():
    for images in (np.ones((1, 4)), np.ones((5, 4))):
        outputs = {"constant": 0 * images + 0.3, "tiny": 1e-12 * images}
        assert [x.output for x in steady_outputs(outputs, images)] == ["tiny"]


def test_lengths_of_poses_that_vary_are_not_named():
    """A routing that normalises its poses gives all of them nearly the same length."""
    angle = np.linspace(0, 3, 10)
    poses = np.stack([np.cos(angle), np.sin(angle)], axis=-1)[:, None]
    lengths = np.linalg.norm(poses, axis=-1)
    found = steady_outputs({"class_lengths": lengths, "poses": poses}, angle)
    assert found == ()
    assert [x.output for x in steady_outputs({"class_lengths": lengths}, angle)]
    tiny = steady_outputs({"class_lengths": 1e-9 * lengths, "poses": 1e-9 * poses}, angle)
    assert [x.output for x in tiny] == ["class_lengths", "poses"]


@pytest.mark.parametrize("scale", [1e-6, 1e-9, 0.0])
def test_dead_models_are_told(tmp_path, scale):
    model = scaled(scale)
    for export_to in (export_onnx, export_saved_model):
        lines, path = [], tmp_path / export_to.__name__
        report = export_to(model, path, on_step=lines.append)
        assert named(report.comparison) == ["class_lengths", "poses"]
        (line,) = report.warnings
        assert "outputs hardly vary over the images: class_lengths by" in line
        assert "poses by" in line and "\n" not in line and line in str(report)
        assert sum("hardly varied: class_lengths, poses" in line for line in lines) == 1
        content = json.loads(report_path(path).read_text())
        assert content["warnings"] == report.warnings
        assert content["largest_relative_difference"] == report.largest_relative_difference
        assert {"output", "difference", "passed", "relative"} <= set(content["comparison"][0])
    comparison, _ = verify.verify_onnx(model, exported(model, tmp_path))
    assert comparison.warnings == report.warnings


def exported(model, folder):
    export_onnx(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_wrong_file_of_a_dead_model_is_refused(monkeypatch, tmp_path):
    """Its outputs are 1e-12: every file would agree with them to 1e-5."""
    simplify = export.graph.simplify
    monkeypatch.setattr(export.graph, "simplify", lambda graph: change_a_weight(simplify(graph)))
    with pytest.raises(parity.ParityError, match="of its largest value, more than"):
        export_onnx(scaled(1e-6), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_half_precision_that_loses_tiny_outputs_is_refused(tmp_path, rng):
    """Pixels of 1e-6 leave half precision's range in the first squares."""
    given = Images(rng.integers(256, size=(20, 8, 8, 1)), rng.integers(3, size=20))
    options = {"precision": "float16", "max_accuracy_drop": 100}
    with pytest.raises(parity.ParityError, match="of its largest value, more than"):
        export_onnx(scaled(1e-6), tmp_path / "model.onnx", test_images=given, **options)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_constant_outputs_in_any_precision(tmp_path, rng, precision):
    model = scaled(1 / 255)
    convolution = next(x for x in model.layers if isinstance(x, PrimaryCaps)).conv
    convolution.kernel.assign(0 * convolution.kernel)
    convolution.bias.assign(np.linspace(-1, 1, 16))
    pixels = rng.integers(256, size=(20, 8, 8, 1))
    given = Images(pixels, rng.integers(3, size=20), pixels)
    report = export_onnx(model, tmp_path / "model.onnx", test_images=given, precision=precision)
    assert named(report.comparison) == ["class_lengths", "poses"]
    assert report.comparison.steady[0].largest > 1e-3


def test_each_named_output_is_judged(tmp_path):
    model = small("l2")
    kernel = [x for x in model.decoder.weights if len(x.shape) == 2][-1]
    kernel.assign(0 * kernel)
    report = export_onnx(model, tmp_path / "model.onnx", with_decoder=True)
    assert named(report.comparison) == ["reconstruction"]
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    outputs = {
        "probabilities": keras.layers.Dense(3, "softmax", kernel_initializer="zeros")(flat),
        "features": keras.layers.Dense(2)(flat),
    }
    for export_to in (export_onnx, export_saved_model):
        report = export_to(keras.Model(image, outputs), tmp_path / export_to.__name__)
        assert named(report.comparison) == ["probabilities"]


@pytest.mark.long
@pytest.mark.parametrize("routing", ROUTINGS)
def test_models_that_are_alive_make_no_warning(tmp_path, rng, routing):
    given = Images(rng.uniform(size=(30, 8, 8, 1)))
    for model, images in (
        (small(routing), None),
        (scaled(1 / 255, routing), None),
        (scaled(1.0, routing), None),  # pixels beyond those that it was made for
        (scaled(1.0, routing), given),
    ):
        report = export_onnx(model, tmp_path / "model.onnx", test_images=images)
        assert report.warnings == []
        assert report.largest_relative_difference < 1e-3


def test_whole_networks_make_no_warning(tmp_path):
    for model in (capsnet((28, 28, 1), 10, filters=16), efficient_capsnet((28, 28, 1), 10)):
        with_decoder = getattr(model, "decoder", None) is not None
        report = export_onnx(model, tmp_path / "model.onnx", with_decoder=with_decoder)
        assert report.warnings == []


def test_random_images_beyond_the_range_of_a_model(tmp_path):
    """On the pixels 0 to 255, its softmax is at its limit for every image."""
    image = keras.Input((8, 8, 1))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    head = keras.layers.Dense(2, "softmax")
    model = keras.Model(image, head(mean))
    head.set_weights([np.array([[1.0, 0.0]]), np.array([0.0, 30.0])])
    report = export_onnx(model, tmp_path / "model.onnx")
    assert report.warnings == []
    pixels = np.random.default_rng(0).integers(256, size=(64, 8, 8, 1))
    assert export_onnx(model, tmp_path / "model.onnx", test_images=Images(pixels)).warnings
    head.set_weights([np.zeros((1, 2)), np.array([0.0, 3.0])])
    assert export_onnx(model, tmp_path / "model.onnx").warnings


def test_darker_images():
    floats = darker(np.array([0, 51, 255], "float32"))
    assert floats.dtype == np.float32 and floats.tolist() == pytest.approx([0, 0.2, 1])
    for dtype in ("uint8", "int32"):
        integers = darker(np.array([0, 127, 128, 255], dtype))
        assert integers.dtype == dtype and integers.tolist() == [0, 0, 1, 1]


def test_programs_warn_on_stderr(monkeypatch, checkpoint_copy, capsys):
    model = checkpoint.load(checkpoint_copy).model
    kernel = model.get_layer("primary_caps").conv.kernel
    kernel.assign(0 * kernel)
    model.save(checkpoint_copy / "model.keras")
    monkeypatch.setattr("sys.argv", ["program", "--model", str(checkpoint_copy)])
    capsys.readouterr()
    for main in (export.onnx.main, verify.main, export.saved_model.main):
        main()
        captured = capsys.readouterr()
        assert captured.err.startswith("warning: outputs hardly vary over the images: class_len")
        assert captured.err.count("\n") == 1
        assert "agrees with" in captured.out
