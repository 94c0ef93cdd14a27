"""Norms and maxima of exported graphs in fewer nodes, with the same values."""

import collections

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from export.norms import shorten
from export.onnx import export_onnx
from exporting import onnx_outputs, small
from kcaps.activations import exponential_squash, safe_norm, squash

SQUARED, LENGTH = np.float32(1e-36), np.float32(1e-18)


def graph(*nodes, outputs, opset=18, **constants):
    """A model of `(operator, inputs, output)` with an input x of shape (n, 4)."""
    constants["last"] = np.array([-1])
    made = [
        helper.make_node(
            operator, inputs, [output], **({"keepdims": 1} if "Reduce" in operator else {})
        )
        for operator, inputs, output in nodes
    ]
    inner = helper.make_graph(
        made,
        "norms",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", None])
            for name in outputs
        ],
        [onnx.numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def computed(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def operators(model):
    return collections.Counter(node.op_type for node in model.graph.node)


@pytest.fixture
def vectors(rng):
    """Long, short and zero vectors."""
    x = rng.normal(size=(6, 4)).astype("float32") * np.geomspace(1e-8, 1e3, 6)[:, None]
    return np.concatenate([x, np.zeros((1, 4))]).astype("float32")


LENGTHS = (
    ("Mul", ["x", "x"], "square"),
    ("ReduceSum", ["square", "last"], "total"),
    ("Max", ["total", "bound"], "bounded"),
    ("Sqrt", ["bounded"], "root"),
    ("Sub", ["root", "small"], "length"),
)


@pytest.mark.parametrize("opset", [13, 18])
def test_lengths(vectors, opset):
    model = graph(*LENGTHS, outputs=["length"], opset=opset, bound=SQUARED, small=LENGTH)
    before = computed(model, vectors)
    shorten(model)
    found = operators(model)
    assert not {"Max", "Sub"} & set(found)
    assert found["ReduceSumSquare"] == (opset >= 18) and found["ReduceSum"] == (opset < 18)
    np.testing.assert_allclose(computed(model, vectors)[0], before[0], rtol=1e-6, atol=1e-18)


def test_what_is_read_elsewhere_stays(vectors):
    """The square and the bounded sum are outputs, too."""
    names = ["length", "square", "bounded"]
    model = graph(*LENGTHS, outputs=names, bound=SQUARED, small=LENGTH)
    before = computed(model, vectors)
    shorten(model)
    onnx.checker.check_model(model, full_check=True)
    assert operators(model) == collections.Counter("Mul ReduceSumSquare Max Sqrt Sub".split())
    for one, other in zip(computed(model, vectors), before, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-18)


def test_bounds_of_divisors_and_other_bounds_stay(vectors):
    divided = (*LENGTHS[:4], ("Div", ["x", "root"], "direction"))
    other = (("Abs", ["x"], "total"), *LENGTHS[2:])
    product = (("Mul", ["x", "other"], "square"), *LENGTHS[1:])
    logarithm = (*LENGTHS[:4], ("Log", ["root"], "logarithm"))
    for nodes, output, bound in (
        (divided, "direction", SQUARED),
        (other, "length", SQUARED),
        (product, "length", SQUARED),
        (logarithm, "logarithm", SQUARED),
        (LENGTHS, "length", np.float32(0.5)),
    ):
        values = {"bound": bound, "small": LENGTH, "other": np.full(4, -2, "float32")}
        model = graph(*nodes, outputs=[output], **values)
        before = computed(model, vectors)
        shorten(model)
        assert operators(model)["Max"] == 1
        np.testing.assert_allclose(computed(model, vectors)[0], before[0], rtol=1e-6, atol=1e-18)


def test_maxima_lose_the_bound_of_empty_batches(vectors):
    nodes = (("Max", ["x", "lowest"], "same"), ("Max", ["same", "zero"], "positive"))
    model = graph(*nodes, outputs=["positive"], lowest=np.float32(-np.inf), zero=np.float32(0))
    shorten(model)
    assert operators(model) == {"Max": 1}
    np.testing.assert_array_equal(computed(model, vectors)[0], np.maximum(vectors, 0))


def test_zero_capsules_stay_zero_in_a_file(tmp_path):
    capsules = keras.Input((3, 4), name="capsules")
    outputs = {
        "squash": keras.layers.Activation(squash)(capsules),
        "exponential_squash": keras.layers.Activation(exponential_squash)(capsules),
        "lengths": keras.layers.Lambda(safe_norm, output_shape=(3,))(capsules),
    }
    model = keras.Model(capsules, outputs)
    x = np.random.default_rng(0).normal(size=(8, 3, 4)).astype("float32")
    x[:, 1] = 0
    export_onnx(model, tmp_path / "model.onnx", test_images=x)
    for name, value in onnx_outputs(tmp_path / "model.onnx", x).items():
        assert not value[:, 1].any() and value[:, 0].any(), name


def test_files_have_fewer_nodes(tmp_path):
    export_onnx(small("dynamic"), tmp_path / "model.onnx")
    found = operators(onnx.load(tmp_path / "model.onnx"))
    assert "Max" not in found and found["ReduceSumSquare"] == 5  # four squashes and the lengths
    export_onnx(small("dynamic"), tmp_path / "model.onnx", opset=13)
    assert "ReduceSumSquare" not in operators(onnx.load(tmp_path / "model.onnx"))
