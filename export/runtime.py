"""ONNX Runtime on a provider that is known to be used."""

import contextlib
import ctypes
import os
import pathlib

import numpy as np
import onnx
import onnxruntime

from export.command import first_line

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
# The runtime warns of its own fallbacks on stderr; here they are errors.
_SILENT = 4


def open_session(model, provider="cpu"):
    """Opens an ONNX model on a provider, and on no other.

    ONNX Runtime falls back to the CPU where a provider cannot start, with a message in its log
    at best.

    Args:
        model: Path of the file, or its bytes.
        provider: `"cpu"`, `"cuda"` or `"tensorrt"`, which gives to CUDA what it cannot run.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        ValueError: if the provider cannot be used; it names the library that is missing.
    """
    check_provider(provider)
    return _session(model if isinstance(model, bytes) else os.fspath(model), provider)


def _session(source, provider):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    wanted = list(PROVIDERS[provider])
    session = onnxruntime.InferenceSession(
        source, options, providers=wanted, enable_fallback=int(provider == "cpu")
    )
    used = session.get_providers()[0]
    if used != wanted[0]:
        raise ValueError(
            f"`provider={provider!r}`: ONNX Runtime fell back to {used}, though every library of "
            f"{wanted[0]} can be loaded. Check the NVIDIA driver and that a device is visible."
        )
    return session


def check_provider(provider):
    """Raises a `ValueError` if the libraries of a provider cannot be loaded, or it cannot run."""
    if provider not in PROVIDERS:
        raise ValueError(f"`provider` must be one of {list(PROVIDERS)}. Received: {provider!r}.")
    onnxruntime.set_default_logger_severity(_SILENT)
    if provider == "cpu":
        return
    with contextlib.redirect_stdout(None):  # it reports what it does not find
        onnxruntime.preload_dlls()  # CUDA and cuDNN, where pip has installed them
    folder = pathlib.Path(onnxruntime.__file__).parent / "capi"
    for name in ("shared", *(("tensorrt", "cuda") if provider == "tensorrt" else ("cuda",))):
        library = folder / f"libonnxruntime_providers_{name}.so"
        if not library.exists():
            raise ValueError(
                f"`provider={provider!r}` cannot be used: {library.name} is missing. Install "
                "onnxruntime-gpu, without onnxruntime beside it."
            )
        try:
            ctypes.CDLL(os.fspath(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            missing = str(error).split(":")[0]
            raise ValueError(
                f"`provider={provider!r}` cannot be used: {library.name} needs {missing}, which "
                "is missing. ONNX Runtime would fall back to the CPU. Install the version of CUDA"
                f"{', cuDNN and TensorRT' if name == 'tensorrt' else ' and cuDNN'} that "
                f"onnxruntime-gpu {onnxruntime.__version__} asks for."
            ) from error
    try:
        _session(_smallest_model(), provider)
    except ValueError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ValueError(f"`provider={provider!r}` cannot be used: {first_line(error)}") from error


def _smallest_model():
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    opset = onnx.helper.make_opsetid("", 13)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def runner(session, batch_size=None):
    """Function from images to a dict of named outputs.

    Args:
        session: An `onnxruntime.InferenceSession` with one input.
        batch_size: The only batch size of the file: other batches are filled up. Defaults to
            None: the file takes any.
    """
    (image,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def run(images):
        images = np.asarray(images)
        count = len(images)
        if batch_size is not None:
            images = np.take(images, range(batch_size), axis=0, mode="wrap")
        outputs = session.run(names, {image.name: images})
        return {name: value[:count] for name, value in zip(names, outputs, strict=True)}

    return run
