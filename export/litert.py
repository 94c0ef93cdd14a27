"""Export of Keras models to LiteRT (TensorFlow Lite), checked by its own interpreter.

python -m export.litert --model ckpt/
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from export import command, pipeline
from export.checkpoint import Checkpoint
from export.errors import ParityError
from export.files import file_hash
from export.images import Images
from export.report import Report

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


def export_litert(
    model: "keras.Model",
    path: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
    test_images: "Images | np.ndarray | tuple | tf.data.Dataset | str | os.PathLike | None" = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[str], object] | None = None,
    with_decoder: bool = False,
    tolerance: float = 1e-5,
    overwrite: bool = True,
) -> Report:
    """Writes a LiteRT file (`.tflite`) that is known to compute what the Keras model does.

    The file has one signature, with the input `image` of any batch size and named outputs, in
    float32 and of LiteRT's own operators alone. It is written aside, opened in the interpreter and
    compared with the model at batch sizes 1, 7 and 64; only then does it appear at `path`, with a
    report `path.json` beside it.

    Args:
        model: A functional Keras model with one input.
        path: Path of the file to write.
        labels, input_range, test_images: As for `export.onnx.export_onnx`; the report has the names
            and the range.
        checkpoint: The `export.checkpoint.Checkpoint` of the model. Defaults to None.
        on_step: Function of one line, called after each step. Defaults to None.
        with_decoder: Whether there is an output `reconstruction`. Defaults to False.
        tolerance: Largest absolute difference to Keras that passes. Defaults to 1e-5.
        overwrite: Whether an existing file may be replaced. Defaults to True.

    Returns:
        An `export.report.Report`. Its `warnings` name outputs that hardly vary over the images, as
        those of a dead model do not.

    Raises:
        ValueError: for a model that cannot be exported, or cannot be computed on the images, or an
            existing file that may not be replaced.
        OSError: if `path` cannot be written.
        ParityError: if the file does not load or does not compute the same; nothing is written.

    Example:

    >>> report = export_litert(model, "model.tflite")
    >>> report.largest_difference <= 1e-5
    True
    """
    target = LiteRT(
        with_decoder=with_decoder,
        tolerance=tolerance,
        overwrite=overwrite,
        labels=labels,
        input_range=input_range,
    )
    return target.export(model, path, test_images, checkpoint, on_step)


class LiteRT(pipeline.Target):
    """Files that LiteRT's interpreter runs by their only signature."""

    file_name = "model.tflite"

    def refuse(self, path):
        if path.is_dir():
            raise ValueError(f"{path} is a folder. Give the path of a file.")

    def write(self, job):
        from export.saved_model import write_saved_model

        # The converter reads a SavedModel, whose signature it keeps.
        folder = job.path.with_name("signature")
        write_saved_model(job.folded, folder)
        job.done("trace", "TensorFlow operations without XLA, batch size free")
        content = _convert(folder)
        job.path.write_bytes(content)
        job.done("convert", f"{len(content):,} bytes, LiteRT's own operators, float32")

    def compare(self, job):
        import tensorflow as tf

        from export.comparing import compare_model

        candidate = open_signature(job.path)
        job.done("open", f"interpreter of TensorFlow {tf.__version__}, its only signature")
        comparison = compare_model(job.reference, candidate, job.test_images, self.tolerance)
        comparison.verify()
        return comparison

    def describe(self, job):
        import kcaps

        return {
            "format": "litert",
            "kcaps": kcaps.__version__,
            "precision": "float32",
            "with_decoder": self.with_decoder,
            "tolerance": self.tolerance,
            "bytes": job.path.stat().st_size,
            "sha256": file_hash(job.path),
            "checkpoint_sha256": job.checkpoint and job.checkpoint.sha256,
        }


def _convert(folder):
    """Returns the bytes of a LiteRT file that computes a SavedModel's signature."""
    import tensorflow as tf

    try:
        # The compiler writes its errors on stderr, and raises the first of them, too.
        with warnings.catch_warnings(), command.no_messages():
            warnings.simplefilter("ignore")
            converter = tf.lite.TFLiteConverter.from_saved_model(
                str(folder), signature_keys=["serving_default"]
            )
            # Others would need a runtime that has TensorFlow's operators, too.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            return converter.convert()
    except Exception as error:  # the converter has no common base for its errors
        raise ValueError(
            f"`model` cannot be converted to LiteRT: {command.first_line(error)}"
        ) from error


def _interpreter(path):
    """Opens a LiteRT file in the interpreter that TensorFlow brings, without its messages."""
    import tensorflow as tf

    try:
        with warnings.catch_warnings(), command.no_messages():
            warnings.simplefilter("ignore")  # of a package for the interpreter alone
            return tf.lite.Interpreter(str(path))
    except Exception as error:  # the interpreter has no common base for its errors
        raise ParityError(f"LiteRT cannot load the file: {command.first_line(error)}") from error


def open_signature(path: str | os.PathLike) -> Callable:
    """Returns a function from images to named outputs, by the signature of a LiteRT file.

    Raises:
        ParityError: if the file does not load.
    """
    interpreter = _interpreter(path)
    try:
        signature = interpreter.get_signature_runner()
    except Exception as error:
        raise ParityError(
            f"the LiteRT file has no signature: {command.first_line(error)}"
        ) from error

    def run(images, interpreter=interpreter):  # which the signature does not keep alive
        with command.no_messages():  # those of the first call, of its delegate
            return {name: value.copy() for name, value in signature(image=images).items()}

    return run


def main() -> None:
    command.set_up("tensorflow")
    pipeline.run(LiteRT, pipeline.export_parser(__doc__, "model.tflite"))


if __name__ == "__main__":
    main()
