"""Lower precision, providers, the benchmark, and the layout of a model repository."""

import json
import re

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

import export.benchmark
import export.onnx
from export import checkpoint, images, parity, precision, runtime, verify
from export.images import Images
from export.onnx import export_onnx
from exporting import FORBIDDEN, contents, ended, onnx_outputs, small
from kcaps.layers import CapsuleLength, DigitCaps


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_lower_precision_keeps_its_accuracy(digits_checkpoint, tmp_path, kind):
    loaded = checkpoint.load(digits_checkpoint)
    path = tmp_path / "model.onnx"
    report = export_onnx(
        loaded.model, path, checkpoint=loaded, precision=kind, max_accuracy_drop=1.0
    )
    test = images.of_run(loaded.run)
    assert report.images == "360 test images of digits"
    # the accuracies are those of Keras and of the file, counted apart
    keras_classes = loaded.model.predict(test.test.astype("float32"), verbose=0).argmax(-1)
    outputs = onnx_outputs(path, test.test.astype("float32"))
    assert report.comparison.accuracy_before == np.mean(keras_classes == test.labels)
    classes = outputs["class_lengths"].argmax(-1)
    assert report.comparison.accuracy_after == np.mean(classes == test.labels)
    assert {value.dtype for value in outputs.values()} == {np.dtype("float32")}
    assert report.largest_difference > 1e-5  # it is no float32 file
    used = operators(path)
    assert not used & FORBIDDEN and {n.domain for n in onnx.load(path).graph.node} == {""}
    if kind == "int8":
        weights = [w.data_type for w in onnx.load(path).graph.initializer if len(w.dims) == 4]
        assert weights and set(weights) == {onnx.TensorProto.INT8}
    else:
        half = [w.data_type for w in onnx.load(path).graph.initializer if len(w.dims) > 1]
        assert half and set(half) == {onnx.TensorProto.FLOAT16}
        assert path.stat().st_size < 0.6 * (digits_checkpoint / "model.keras").stat().st_size
    content = json.loads((tmp_path / "model.onnx.json").read_text())
    assert content["precision"] == kind and content["accuracy"]["after"] > 0.8
    verify.verify_onnx(loaded.model, path, checkpoint=loaded, max_accuracy_drop=1.0)
    changed = onnx.load(path)
    for tensor in changed.graph.initializer:
        if len(tensor.dims) > 1:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array.flat[array.size // 2] += array.dtype.type(1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            break
    onnx.save(changed, path)
    with pytest.raises(parity.ParityError, match="is not the one that"):
        verify.verify_onnx(loaded.model, path, checkpoint=loaded, max_accuracy_drop=1.0)


def test_float16_keeps_norms_in_float32(tmp_path, rng):
    """Capsules of length 3,000 have squares beyond half precision's range."""
    model = small("l2")
    model.get_layer("primary_caps").conv.bias.assign(np.full(16, 1000.0))
    test = Images(rng.integers(256, size=(20, 17, 18, 1)), np.zeros(20, int))
    export_onnx(
        model, tmp_path / "model.onnx", test_images=test, precision="float16", max_accuracy_drop=100
    )
    x = test.test.astype("float32")
    outputs = onnx_outputs(tmp_path / "model.onnx", x)
    np.testing.assert_allclose(
        outputs["class_lengths"], model.predict(x, verbose=0), rtol=0.01, atol=1e-4
    )
    casts = [
        node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Cast"
    ]
    assert len(casts) < 10


def test_a_loss_of_accuracy_is_refused(monkeypatch, checkpoint_copy, capsys):
    before = contents(checkpoint_copy)
    convert = precision.to_int8

    def spoiled(graph, *args):
        result = convert(graph, *args)
        for tensor in result.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
                array = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(-array, tensor.name))
        return result

    monkeypatch.setattr(precision, "to_int8", spoiled)
    monkeypatch.setitem(precision.TOLERANCES, "int8", 2.0)
    arguments = ("--model", checkpoint_copy, "--precision", "int8")
    line = ended(monkeypatch, capsys, export.onnx.main, 1, *arguments)
    assert re.search(r"int8 loses \d+\.\d\d points .* at most 0\.5 are allowed", line)
    assert contents(checkpoint_copy) == before


def test_points_lost():
    row = parity.Row("class", "1000 images", (1000,), 0.0, True)
    for after, kind, limit, is_refused in [
        (0.900, "float16", None, False),
        (0.899, "float16", None, False),
        (0.898, "float16", None, True),
        (0.895, "int8", None, False),
        (0.894, "int8", None, True),
        (0.894, "int8", 0.6, False),
        (0.899, "int8", 0.0, True),
        (0.950, "int8", 0.0, False),
    ]:
        comparison = parity.Comparison([row], 0.9, after)
        if is_refused:
            with pytest.raises(parity.ParityError, match="points of accuracy"):
                precision.check_accuracy(comparison, kind, limit)
        else:
            precision.check_accuracy(comparison, kind, limit)
    for wrong in (-1, 101, float("nan"), "x"):
        with pytest.raises(ValueError, match="from 0 to 100 points"):
            precision.check_accuracy(comparison, "int8", wrong)


@pytest.mark.parametrize("routing", ["dynamic", "em", "self_attention", "inverted_attention"])
def test_lower_precision_of_all_routings(tmp_path, rng, routing):
    test = rng.integers(256, size=(20, 17, 18, 1))
    given = Images(test, rng.integers(3, size=20), test)
    for kind in ("float16", "int8"):
        options = {"precision": kind, "max_accuracy_drop": 100}
        report = export_onnx(small(routing), tmp_path / "model.onnx", test_images=given, **options)
        assert all(row.passed for row in report.rows)


def test_int8_needs_convolutions(tmp_path, rng):
    image = keras.Input((4, 3))
    test = rng.normal(size=(20, 4, 3))
    given = Images(test, rng.integers(2, size=20), test)
    model = keras.Model(image, CapsuleLength()(DigitCaps(2, 4)(image)))
    with pytest.raises(ValueError, match="Received: a model without any"):
        export_onnx(model, tmp_path / "model.onnx", test_images=given, precision="int8")


def test_lower_precision_needs_labelled_images(tmp_path, rng):
    model = small("l2")
    test = rng.integers(256, size=(4, 17, 18, 1))
    for kind, given, message in [
        ("float16", None, "is judged by its accuracy on test images"),
        ("int8", Images(test), "is judged by its accuracy on test images"),
        ("int8", Images(test, np.zeros(4, int)), "takes its ranges from training images"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_onnx(model, tmp_path / "model.onnx", test_images=given, precision=kind)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_would_fall_back(monkeypatch, checkpoint_copy, capsys, tmp_path, provider):
    try:
        runtime.check_provider(provider)
        pytest.skip(f"{provider} works here")
    except ValueError as error:
        assert re.search(r"needs lib\w+\.so\.\d+, which is missing", str(error))
    before = contents(checkpoint_copy)
    arguments = ("--model", checkpoint_copy, "--provider", provider)
    for main in (export.onnx.main, export.benchmark.main, verify.main):
        if main is verify.main:
            (checkpoint_copy / "model.onnx").write_bytes(onnx_file(tmp_path))
            before = contents(checkpoint_copy)
        line = ended(monkeypatch, capsys, main, 2, *arguments)
        assert f"`provider='{provider}'` cannot be used" in line and "is missing" in line
        assert contents(checkpoint_copy) == before


def onnx_file(folder):
    export_onnx(small("l2"), folder / "other.onnx")
    return (folder / "other.onnx").read_bytes()


def test_a_provider_that_falls_back_all_the_same(monkeypatch):
    """Libraries may load where no device is: what a session uses is what counts."""
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda *args, **kwargs: None)
    session = onnxruntime.InferenceSession

    def fall_back(source, options, providers, enable_fallback):
        assert providers[0] == "CUDAExecutionProvider" and not enable_fallback
        return session(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(ValueError, match="fell back to CPUExecutionProvider"):
        runtime.check_provider("cuda")

    def fail(*args, **kwargs):
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(ValueError, match="cannot be used: RuntimeError: CUDA failure 100"):
        runtime.check_provider("cuda")


def test_a_fixed_batch_size_is_filled_up(tmp_path, rng):
    model = small("dynamic")
    export_onnx(model, tmp_path / "model.onnx", batch_size=4)
    session = runtime.open_session(tmp_path / "model.onnx")
    x = rng.integers(256, size=(3, 17, 18, 1)).astype("float32")
    outputs = runtime.runner(session, batch_size=4)(x)
    np.testing.assert_allclose(outputs["class_lengths"], model.predict(x, verbose=0), atol=1e-5)


def test_benchmark(monkeypatch, checkpoint_copy, capsys):
    arguments = ["--model", str(checkpoint_copy), "--batch-sizes", "1,3", "--repeats", "2"]
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    export.benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines[lines.index(export.benchmark.HEADER) + 1 :]]
    assert [(row[0].split(",")[0], row[1]) for row in rows] == [
        (name, batch) for batch in ("1", "3") for name in ("ONNX Runtime", "TensorFlow", "Keras")
    ]
    for row in rows:
        batch, median, p95, rate = (float(x.replace(",", "")) for x in row[1:])
        assert 0 < median <= p95 and rate == pytest.approx(1000 * batch / median, rel=0.05)
    assert not (checkpoint_copy / "model.onnx").exists()  # exports for the time of the benchmark


def test_benchmark_refuses_files_of_other_models(monkeypatch, checkpoint_copy, capsys, tmp_path):
    path = checkpoint_copy / "model.onnx"
    path.write_bytes(onnx_file(tmp_path))
    arguments = ("--model", checkpoint_copy, "--onnx")
    line = ended(monkeypatch, capsys, export.benchmark.main, 2, *arguments, path)
    assert "was not exported from the model" in line
    path.write_bytes(b"no model")
    line = ended(monkeypatch, capsys, export.benchmark.main, 2, *arguments, path)
    assert "cannot be read as ONNX" in line
    loaded = checkpoint.load(checkpoint_copy)
    export_onnx(loaded.model, path, checkpoint=loaded, batch_size=2)
    exported = path.read_bytes()
    path.write_bytes(exported.replace(b"kcaps", b"KCAPS"))
    line = ended(monkeypatch, capsys, export.benchmark.main, 2, *arguments, path)
    assert "is not the one that model.onnx.json speaks of" in line
    path.write_bytes(exported)
    sizes = ("--batch-sizes", "2,3")
    line = ended(monkeypatch, capsys, export.benchmark.main, 2, *arguments, path, *sizes)
    assert "takes batches of 2 alone" in line
    for sizes, message in (
        ("1,x", "invalid"),
        ("0", "must be positive"),
        ("", "invalid"),
        ("1,100000", "must be at most 65,536"),
    ):
        line = ended(
            monkeypatch, capsys, export.benchmark.main, 2, *arguments, path, "--batch-sizes", sizes
        )
        assert message in line


@pytest.mark.parametrize("batch_size", [None, 4])
def test_model_repository(monkeypatch, checkpoint_copy, capsys, tmp_path, batch_size):
    folder = tmp_path / "deep/models"
    arguments = ["--model", str(checkpoint_copy), "--model-repository", str(folder)]
    arguments += ["--limit", "8", *(["--batch-size", str(batch_size)] if batch_size else [])]
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    export.onnx.main()
    assert {str(path.relative_to(folder)) for path in contents(folder)} == {
        "digits/config.pbtxt",
        "digits/labels.txt",
        "digits/1/model.onnx",
        "digits/1/model.onnx.json",
    }
    assert (folder / "digits/labels.txt").read_text().split() == [str(i) for i in range(10)]
    config = (folder / "digits/config.pbtxt").read_text()
    first = f"{batch_size}, " if batch_size else ""
    assert 'name: "digits"\nplatform: "onnxruntime_onnx"\n' in config
    assert f"max_batch_size: {0 if batch_size else 256}\n" in config
    assert f'name: "image", data_type: TYPE_FP32, dims: [ {first}8, 8, 1 ]' in config
    assert f'"class_lengths", data_type: TYPE_FP32, dims: [ {first}10 ], label_filename' in config
    assert f'"poses", data_type: TYPE_FP32, dims: [ {first}10, 16 ]' in config
    assert config.count("{") == config.count("}") and config.count("[") == config.count("]")
    before = contents(folder)
    assert "Replace it with" in ended(monkeypatch, capsys, export.onnx.main, 2, *arguments)
    assert contents(folder) == before
