"""ONNX files in ONNX Runtime, on a provider that is known to be used."""

import contextlib
import ctypes
import os
import pathlib

import onnx
import onnxruntime

from export import precision
from export.command import first_line
from export.comparing import compare_model
from export.errors import ParityError
from export.files import file_hash
from export.parity import BATCH_SIZES, Comparison
from export.report import read_report, report_path
from export.session import SILENT, open_file, runner

MAX_BATCH_SIZE = 65_536
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}


def read(path: pathlib.Path) -> tuple[list, int, dict]:
    """Returns the outputs' names of an ONNX file, its batch size (0: any) and its metadata.

    Raises:
        ValueError: if the file cannot be read.
    """
    try:
        proto = onnx.load(path)
        size = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    except Exception as error:  # protobuf's errors, and those of reading
        raise ValueError(f"{path} cannot be read as ONNX: {first_line(error)}") from error
    metadata = {"precision": "float32"} | {x.key: x.value for x in proto.metadata_props}
    if metadata["precision"] not in precision.PRECISIONS:
        raise ValueError(f"{path} has an unknown precision, {metadata['precision']!r:.80}")
    return [output.name for output in proto.graph.output], size, metadata


def check_unchanged(path: pathlib.Path) -> None:
    """Raises a `ParityError` if the report beside a file speaks of another one."""
    expected = read_report(path).get("sha256")
    if expected is not None and file_hash(path) != expected:
        raise ParityError(f"the file is not the one that {report_path(path).name} speaks of")


def open_session(path: pathlib.Path, provider: str = "cpu") -> onnxruntime.InferenceSession:
    """Opens an ONNX file on a provider, and on no other.

    ONNX Runtime falls back to the CPU where a provider cannot start, with a message in its log
    at best.

    Args:
        path: Path of the file.
        provider: `"cpu"`, `"cuda"` or `"tensorrt"`, which gives to CUDA what it cannot run.

    Raises:
        ValueError: if the provider cannot be used; it names the library that is missing.
        ParityError: if the file does not load.
    """
    check_provider(provider)
    try:
        return _session(os.fspath(path), provider)
    except ValueError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ParityError(f"ONNX Runtime cannot load the file: {first_line(error)}") from error


def _session(source, provider):
    wanted = list(PROVIDERS[provider])
    session = open_file(source, wanted, can_fall_back=provider == "cpu")
    used = session.get_providers()[0]
    if used != wanted[0]:
        raise ValueError(
            f"`provider={provider!r}`: ONNX Runtime fell back to {used}, though every library of "
            f"{wanted[0]} can be loaded. Check the NVIDIA driver and that a device is visible."
        )
    return session


def check_provider(provider: str) -> None:
    """Raises a `ValueError` if the libraries of a provider cannot be loaded, or it cannot run."""
    if provider not in PROVIDERS:
        raise ValueError(f"`provider` must be one of {list(PROVIDERS)}. Received: {provider!r}.")
    onnxruntime.set_default_logger_severity(SILENT)
    if provider == "cpu":
        return
    with contextlib.redirect_stdout(None):  # it reports what it does not find
        onnxruntime.preload_dlls()  # CUDA and cuDNN, where pip has installed them
    for name in ("shared", *(("tensorrt", "cuda") if provider == "tensorrt" else ("cuda",))):
        _load_library(name, provider)
    try:
        _session(_smallest_model(), provider)
    except ValueError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ValueError(f"`provider={provider!r}` cannot be used: {first_line(error)}") from error


def _load_library(name, provider):
    """Raises a `ValueError` if a library of a provider, or one that it needs, is missing."""
    library = pathlib.Path(onnxruntime.__file__).parent / f"capi/libonnxruntime_providers_{name}.so"
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


def _smallest_model():
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    opset = onnx.helper.make_opsetid("", 13)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def compare_session(
    reference, session, test_images, kind, *, tolerance, batch_size, max_accuracy_drop
) -> Comparison:
    """Compares an open session with the reference model, as `export.comparing.compare_model` does.

    Raises:
        ParityError: if the file does not compute the same, or loses more accuracy than its
            precision, the `kind`, may.
    """
    comparison = compare_model(
        reference,
        runner(session, batch_size),
        test_images,
        max(tolerance, precision.TOLERANCES[kind]),
        BATCH_SIZES if batch_size is None else (batch_size,),
        same_classes=kind == "float32",
    )
    comparison.verify()
    if kind != "float32":
        precision.check_accuracy(comparison, kind, max_accuracy_drop)
    return comparison
