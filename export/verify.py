"""Check of an ONNX file against the checkpoint that it was exported from.

python -m export.verify --model ckpt/ --provider cuda
"""

import json
import pathlib

from export import command

with command.required(__name__ == "__main__"), command.quiet_tensorflow(__name__ == "__main__"):
    import tensorflow  # noqa: F401

with command.required(__name__ == "__main__"):
    import onnx

    from export import checkpoint, images, precision, program, runtime
    from export.checkpoint import file_hash
    from export.comparing import compare_model
    from export.files import report_path
    from export.inference import inference_model
    from export.parity import BATCH_SIZES, ParityError


def verify_onnx(
    model,
    path,
    test_images=None,
    checkpoint=None,
    provider="cpu",
    tolerance=1e-5,
    max_accuracy_drop=None,
):
    """Compares an ONNX file with the Keras model that it should compute.

    In float32, every output must agree to `tolerance` and every image get the same class; a lower
    precision must agree to its own tolerance and keep its accuracy. Where the exporter's report
    lies beside the file, the file must be the one that it speaks of, to the last bit.

    Args:
        model: The Keras model.
        path: Path of the ONNX file.
        test_images: An `export.images.Images`. Defaults to None: those of the checkpoint's data
            set, or random ones.
        checkpoint: The `export.checkpoint.Checkpoint` of the model, or None.
        provider: `"cpu"`, `"cuda"` or `"tensorrt"`. Defaults to `"cpu"`.
        tolerance: Largest absolute difference that passes in float32. Defaults to 1e-5.
        max_accuracy_drop: Points of test accuracy that float16 and int8 may lose. Defaults to
            None: 0.1 for float16, 0.5 for int8.

    Returns:
        An `export.parity.Comparison`, whose `warnings` name outputs that hardly vary over the
        images, and a description of the images.

    Raises:
        ValueError: if the model or the file cannot be read, the provider not be used, or the model
            not be computed on the images.
        ParityError: if the file was changed, does not load or does not compute the same.

    Example:

    >>> report = export_onnx(model, "model.onnx")
    >>> comparison, images = verify_onnx(model, "model.onnx")
    """
    path = pathlib.Path(path)
    precision.check_drop(max_accuracy_drop)
    outputs, size, metadata = read(path)
    check_unchanged(path)
    reference = inference_model(model, "reconstruction" in outputs)
    test_images = images.choose(test_images, checkpoint, reference.inputs[0])
    comparison = compare_session(
        reference,
        open_verified(path, provider),
        test_images,
        metadata["precision"],
        tolerance,
        size or None,
    )
    accept(comparison, metadata["precision"], max_accuracy_drop)
    return comparison, str(test_images)


def read(path):
    """Names of the outputs of an ONNX file, its batch size (0 where it is free), and metadata.

    Raises:
        ValueError: if the file cannot be read.
    """
    try:
        proto = onnx.load(path)
        size = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    except Exception as error:  # protobuf's errors, and those of reading
        raise ValueError(f"{path} cannot be read as ONNX: {command.first_line(error)}") from error
    metadata = {"precision": "float32"} | {x.key: x.value for x in proto.metadata_props}
    if metadata["precision"] not in precision.PRECISIONS:
        raise ValueError(f"{path} has an unknown precision, {metadata['precision']!r:.80}")
    return [output.name for output in proto.graph.output], size, metadata


def read_report(path):
    """The report of an exported file or folder, or an empty dict where there is none.

    Raises:
        ValueError: if it cannot be read.
    """
    report = report_path(path)
    try:
        content = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{report} cannot be read: {command.first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{report} is not a report of an export")
    return content


def check_unchanged(path):
    """Raises a `ParityError` if the report beside a file speaks of another one."""
    expected = read_report(path).get("sha256")
    if expected is not None and file_hash(path) != expected:
        raise ParityError(f"the file is not the one that {report_path(path).name} speaks of")


def open_verified(path, provider):
    """Opens a file, whose failure to load is a `ParityError`."""
    try:
        return runtime.open_session(path, provider)
    except ValueError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ParityError(
            f"ONNX Runtime cannot load the file: {command.first_line(error)}"
        ) from error


def compare_session(reference, session, test_images, kind, tolerance, batch_size):
    """Compares an open session with the reference model, on all test images."""
    return compare_model(
        reference,
        runtime.runner(session, batch_size),
        test_images,
        max(tolerance, precision.TOLERANCES[kind]),
        BATCH_SIZES if batch_size is None else (batch_size,),
        same_classes=kind == "float32",
    )


def accept(comparison, kind, max_accuracy_drop):
    """Raises a `ParityError` if a comparison does not meet what its precision must."""
    comparison.verify()
    if kind != "float32":
        precision.check_accuracy(comparison, kind, max_accuracy_drop)


def main():
    parser = program.file_parser(__doc__.splitlines()[0], runtime.PROVIDERS)
    parser.add_argument("--tolerance", type=command.positive(float), default=1e-5)
    parser.add_argument("--max-accuracy-drop", type=float, help="as for export.onnx")
    args = parser.parse_args()
    path = args.onnx or args.model / "model.onnx"
    try:
        loaded = checkpoint.load(args.model)
        drop = args.max_accuracy_drop
        if drop is not None and read(path)[2]["precision"] == "float32":
            precision.check_drop(drop)
            parser.error(command.left_out("--max-accuracy-drop", drop, precision.EXACT))
        with command.required():  # scikit-learn, for the images of digits
            comparison, test_images = verify_onnx(
                loaded.model,
                path,
                checkpoint=loaded,
                provider=args.provider,
                tolerance=args.tolerance,
                max_accuracy_drop=drop,
            )
    except (ValueError, OSError) as error:
        command.fail(error)
    except ParityError as error:
        command.fail(f"{path}: {error}", code=1)
    print("\n".join(map(str, comparison.rows)))
    print(f"✓ {path} agrees with {args.model} on {test_images}: {comparison.summary}")
    program.warn(comparison)


if __name__ == "__main__":
    main()
