"""Export of Keras models with kcaps layers to ONNX, checked in ONNX Runtime.

python -m export.onnx --model ckpt/
python -m export.onnx --model a.keras --images pictures/ --labels cat,dog
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from export import command, pipeline
from export.checkpoint import Checkpoint
from export.images import Images
from export.report import Report
from export.source import Source

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


def export_onnx(
    model: "keras.Model",
    path: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
    test_images: "Images | np.ndarray | tuple | tf.data.Dataset | str | os.PathLike | None" = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[str], object] | None = None,
    opset: int = 18,
    batch_size: int | None = None,
    precision: str = "float32",
    max_accuracy_drop: float | None = None,
    provider: str = "cpu",
    with_decoder: bool = False,
    tolerance: float = 1e-5,
    overwrite: bool = True,
) -> Report:
    """Writes an ONNX file that is known to compute what the Keras model does.

    Routing coefficients are multiplied into kernels, the graph is traced, converted, simplified,
    checked, opened in ONNX Runtime and compared with the model at batch sizes 1, 7 and 64. Only
    then does the file appear at `path`, with a report `path.json` beside it. The same model gives
    the same file, byte for byte.

    Args:
        model: A functional Keras model with one input.
        path: Path of the file to write.
        labels: Names of the classes, for the file's metadata. Defaults to None: those of the
            checkpoint or, if `test_images` has class folders, of these.
        input_range: Values of black and white pixels. Defaults to None: those of the checkpoint, or
            0 and 255.
        test_images: Images to compare on: an array, a pair of images and labels, a
            `tf.data.Dataset` of either, the path of a folder of pictures, of class folders or of an
            `.npz` file, or an `export.images.Images`. Paths of pictures have pixels scaled to
            `input_range`; arrays are taken as they are. float16 needs labels, int8 training images
            too. Defaults to None: those of the checkpoint's data set, or random pixels.
        checkpoint: The `export.checkpoint.Checkpoint` of the model: its labels, recipe and hash go
            into the file's metadata. Defaults to None.
        on_step: Function of one line, called after each step. Defaults to None.
        opset: Version of the ONNX operator set, from 13 to 18.
        batch_size: The only batch size of the file. Defaults to None: any.
        precision: `"float32"`, `"float16"` (convolutions and products) or `"int8"`
            (convolutions).
        max_accuracy_drop: Points of test accuracy that float16 and int8 may lose. Defaults to
            None: 0.1 for float16, 0.5 for int8.
        provider: `"cpu"`, `"cuda"` or `"tensorrt"`, on which the file is verified.
        with_decoder: Whether the file has the output `reconstruction`.
        tolerance: Largest absolute difference to Keras that passes in float32; the relative one
            that passes follows from it (`export.parity.relative_limit`).
        overwrite: Whether an existing file may be replaced.

    Returns:
        An `export.report.Report`. Its `warnings` name outputs that hardly vary over the images, as
        those of a dead model do not; a file that agrees on them is written all the same.

    Raises:
        ValueError: for a model that cannot be exported, or cannot be computed on the images, an
            option that cannot be met, or an existing file that may not be replaced.
        OSError: if `path` cannot be written.
        ParityError: if the file does not load, does not compute the same, or loses too much
            accuracy; nothing is written.

    Example:

    >>> report = export_onnx(model, "model.onnx", labels=["cat", "dog", "hen"])
    >>> report.largest_difference <= 1e-5
    True
    """
    from export.onnx_target import Onnx

    target = Onnx(
        opset=opset,
        batch_size=batch_size,
        precision=precision,
        max_accuracy_drop=max_accuracy_drop,
        provider=provider,
        with_decoder=with_decoder,
        tolerance=tolerance,
        overwrite=overwrite,
        labels=labels,
        input_range=input_range,
    )
    return target.export(model, path, test_images, checkpoint, on_step)


def main() -> None:
    command.set_up("tensorflow")
    from export import precision, runtime
    from export.onnx_target import Onnx

    parser = pipeline.export_parser(__doc__, "model.onnx")
    parser.add_argument(
        "--model-repository",
        type=pathlib.Path,
        help="instead of --output: write into this folder as an ONNX-serving model repository",
    )
    parser.add_argument("--opset", type=int, default=18, help="ONNX operator set, 13 to 18")
    parser.add_argument(
        "--batch-size", type=command.positive(int), help="the only batch size; default: any"
    )
    parser.add_argument("--precision", choices=precision.PRECISIONS, default="float32")
    parser.add_argument(
        "--max-accuracy-drop",
        type=float,
        help="points of test accuracy; default: 0.1 for float16, 0.5 for int8",
    )
    parser.add_argument("--provider", choices=list(runtime.PROVIDERS), default="cpu")
    parser.refuse(
        ["--max-accuracy-drop"],
        # What is no number of points has an error of its own.
        lambda args: args.precision == "float32" and 0 <= args.max_accuracy_drop <= 100,
        precision.EXACT,
    )
    args = vars(parser.parse_args())
    source, output = Source.of_arguments(args), args.pop("output")
    if output and args["model_repository"]:
        parser.error("give --output or --model-repository, not both")
    pipeline.export_checkpoint(Onnx(**args), source, output)


if __name__ == "__main__":
    main()
