import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

import programs

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    # Two devices, for tests of replicas; before TensorFlow starts.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
else:
    # Recipes and exporters are TensorFlow's, and so are many examples of the documentation.
    collect_ignore = [
        "test_baselines.py",
        "test_distribution.py",
        "test_imports.py",
        "test_docs.py",
        "test_loss_study.py",
        "test_regression_recipes.py",
        "test_tour.py",
        "test_tune.py",
    ]
    collect_ignore_glob = ["test_export*.py", "test_fuzzing*.py"]


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is long
def pytest_collection_modifyitems(items):
    for item in items:
        if BACKEND == "tensorflow" and "compiled" in item.keywords:
            item.add_marker(pytest.mark.long)
        elif BACKEND != "tensorflow" and "tensorflow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a matter of the TensorFlow backend"))


@pytest.fixture(autouse=True)
def fresh_keras():
    """Each test starts from the same seed and the same global settings."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy(policy)
    keras.backend.clear_session(free_memory=False)  # collecting garbage takes longer than a test


@pytest.fixture(scope="session")
def two_devices():
    """One strategy for all tests: those of a process number their reductions alike, and meet."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory):
    """A checkpoint of the digits recipe, trained for a moment on real images. Read it only."""
    folder = tmp_path_factory.mktemp("digits") / "ckpt"
    recipe = programs.ROOT / "recipes/digits.py"
    arguments = ("--limit", 600, "--epochs", 3, "--routing", "l1", "--output", folder)
    result = programs.python(recipe, *arguments, cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def checkpoint_copy(digits_checkpoint, tmp_path):
    return pathlib.Path(shutil.copytree(digits_checkpoint, tmp_path / "ckpt"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(
    params=[
        ((9, 9), (5, 5), (2, 2)),
        ((8, 11), (3, 4), (2, 2)),
        ((7, 9), (3, 2), (1, 2)),
        ((11, 10), (5, 3), (3, 2)),
        ((6, 7), (1, 2), (2, 3)),
    ],
    ids=str,
)
def strided(request):
    """Sizes of the maps and of the window, and the strides, of a convolution that has strides."""
    return request.param


@pytest.fixture
def gradient():
    """Function `(fn, *arrays) -> [d sum(fn(*arrays)) / d array, …]`, on any backend.

    With one array, the result is not a list.
    """

    def compute(fn, *arrays):
        arrays = [np.asarray(x) for x in arrays]
        if BACKEND == "tensorflow":
            tensors = [tf.constant(x) for x in arrays]
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                total = keras.ops.sum(fn(*tensors))
            gradients = tape.gradient(total, tensors, unconnected_gradients="zero")
        elif BACKEND == "jax":
            import jax

            def total(*tensors):
                return keras.ops.sum(fn(*tensors))

            gradients = jax.jit(jax.grad(total, argnums=tuple(range(len(arrays)))))(*arrays)
        else:
            import torch

            tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
            gradients = torch.autograd.grad(keras.ops.sum(fn(*tensors)), tensors)
        gradients = [keras.ops.convert_to_numpy(g) for g in gradients]
        return gradients[0] if len(gradients) == 1 else gradients

    return compute


@pytest.fixture
def xla_calls():
    """Function `(fn, *arrays)`: for each call in its graph whether XLA compiles it; TensorFlow."""

    def find(fn, *arrays):
        graph = tf.function(fn).get_concrete_function(*map(tf.constant, arrays)).graph
        return [
            op.node_def.attr["_XlaMustCompile"].b
            for op in graph.get_operations()
            if "PartitionedCall" in op.type or "_XlaMustCompile" in op.node_def.attr
        ]

    return find
