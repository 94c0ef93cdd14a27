"""Check of an ONNX file against the checkpoint that it was exported from.

python -m export.verify --model ckpt/ --provider cuda
"""

import os
import pathlib
from typing import TYPE_CHECKING

from export import command, images, pipeline
from export.about import About
from export.checkpoint import Checkpoint
from export.errors import ParityError
from export.images import Images
from export.source import Source, add_images

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from export.parity import Comparison


def verify_onnx(
    model: "keras.Model",
    path: str | os.PathLike,
    *,
    test_images: "Images | np.ndarray | tuple | tf.data.Dataset | str | os.PathLike | None" = None,
    checkpoint: Checkpoint | None = None,
    provider: str = "cpu",
    tolerance: float = 1e-5,
    max_accuracy_drop: float | None = None,
) -> "tuple[Comparison, str]":
    """Compares an ONNX file with the Keras model that it should compute.

    In float32, every output must agree to `tolerance` and every image get the same class; a lower
    precision must agree to its own tolerance and keep its accuracy. Where the exporter's report
    lies beside the file, the file must be the one that it speaks of, to the last bit.

    Args:
        model: The Keras model.
        path: Path of the ONNX file.
        test_images: Images to compare on, as for `export.onnx.export_onnx`. Defaults to None: those
            of the checkpoint's data set, or random ones.
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
    >>> comparison.largest_difference <= 1e-5
    True
    """
    from export import precision, runtime
    from export.reference import Reference

    path = pathlib.Path(path)
    precision.check_drop(max_accuracy_drop)
    outputs, size, metadata = runtime.read(path)
    runtime.check_unchanged(path)
    reference = Reference.of(model, "reconstruction" in outputs)
    # The pixels and the classes of the file are those that its exporter was told.
    about = About.of_metadata(metadata)
    test_images = images.choose(test_images, checkpoint, reference.model.inputs[0], about)
    comparison = runtime.compare_session(
        reference,
        runtime.open_session(path, provider),
        test_images,
        metadata["precision"],
        tolerance=tolerance,
        batch_size=size or None,
        max_accuracy_drop=max_accuracy_drop,
    )
    return comparison, str(test_images)


def main() -> None:
    command.set_up("tensorflow")
    from export import precision, runtime

    parser = pipeline.file_parser(__doc__, runtime.PROVIDERS)
    add_images(parser)
    parser.add_argument("--tolerance", type=command.positive(float), default=1e-5)
    parser.add_argument("--max-accuracy-drop", type=float, help="as for export.onnx")
    args = vars(parser.parse_args())
    source, drop = Source.of_arguments(args), args["max_accuracy_drop"]
    path = args["onnx"]
    try:
        loaded = source.load()
        path = path or loaded.place("model.onnx")
        metadata = runtime.read(path)[2]
        if drop is not None and metadata["precision"] == "float32":
            precision.check_drop(drop)
            parser.error(command.left_out("--max-accuracy-drop", drop, precision.EXACT))
        comparison, test_images = verify_onnx(
            loaded.model,
            path,
            test_images=source.test_images(loaded, About.of_metadata(metadata)),
            checkpoint=loaded,
            provider=args["provider"],
            tolerance=args["tolerance"],
            max_accuracy_drop=drop,
        )
    except (ValueError, OSError) as error:
        command.fail(error)
    except ParityError as error:
        command.fail(f"{path}: {error}", code=1)
    print("\n".join(map(str, comparison.rows)))
    if comparison.half is not None:
        print(f"  {comparison.half}")
    print(f"✓ {path} agrees with {source.model} on {test_images}: {comparison.summary}")
    pipeline.print_warnings(comparison)


if __name__ == "__main__":
    main()
