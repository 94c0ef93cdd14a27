"""Export of Keras models with kcaps layers to SavedModel, checked in TensorFlow.

python -m export.saved_model --model ckpt/
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from export import command, pipeline
from export.checkpoint import Checkpoint
from export.errors import ParityError
from export.images import Images
from export.report import Report

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


def export_saved_model(
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
    """Writes a SavedModel that is known to compute what the Keras model does.

    The SavedModel needs neither kcaps nor Keras to be served. It is written aside, loaded with
    `tf.saved_model.load` and compared with the model at batch sizes 1, 7 and 64; only then does
    it appear at `path`, with a report `path.json` beside it.

    Args:
        model: A functional Keras model with one input.
        path: Path of the folder to write.
        labels, input_range, test_images: As for `export.onnx.export_onnx`; the report has the names
            and the range.
        checkpoint: The `export.checkpoint.Checkpoint` of the model. Defaults to None.
        on_step: Function of one line, called after each step. Defaults to None.
        with_decoder: Whether there is an output `reconstruction`. Defaults to False.
        tolerance: Largest absolute difference to Keras that passes. Defaults to 1e-5.
        overwrite: Whether an existing SavedModel may be replaced. Defaults to True.

    Returns:
        An `export.report.Report`. Its `warnings` name outputs that hardly vary over the images, as
        those of a dead model do not.

    Raises:
        ValueError: for a model that cannot be exported, or cannot be computed on the images, or a
            `path` that holds something else.
        OSError: if `path` cannot be written.
        ParityError: if the files do not load or do not compute the same; nothing is written.

    Example:

    >>> report = export_saved_model(model, "saved_model")
    >>> report.largest_difference <= 1e-5
    True
    """
    target = SavedModel(
        with_decoder=with_decoder,
        tolerance=tolerance,
        overwrite=overwrite,
        labels=labels,
        input_range=input_range,
    )
    return target.export(model, path, test_images, checkpoint, on_step)


class SavedModel(pipeline.Target):
    """Folders that TensorFlow serves by the signature `serving_default`."""

    file_name = "saved_model"

    def refuse(self, path):
        if os.path.lexists(path) and not (path / "saved_model.pb").is_file():
            raise ValueError(f"{path} exists and is not a SavedModel. Give another output folder.")

    def keeps_half_precision(self):
        return True  # TensorFlow computes what Keras does, to the last bit on the same machine

    def write(self, job):
        write_saved_model(job.folded, job.path)
        job.done("write", "TensorFlow operations without XLA, batch size free")

    def compare(self, job):
        import tensorflow as tf

        from export.comparing import compare_model

        candidate = _serve(job.path)
        job.done("load", f"TensorFlow {tf.__version__}, signature serving_default")
        comparison = compare_model(job.reference, candidate, job.test_images, self.tolerance)
        comparison.verify()
        return comparison

    def describe(self, job):
        import kcaps
        from export.half import half_dtypes

        return {
            "format": "saved_model",
            "kcaps": kcaps.__version__,
            "precision": " and ".join(half_dtypes(job.reference.model)) or "float32",
            "tolerance": self.tolerance,
            "checkpoint_sha256": job.checkpoint and job.checkpoint.sha256,
        }


def write_saved_model(model: "keras.Model", path: pathlib.Path) -> None:
    """Writes a model as a SavedModel whose signature has the input `image`, of any batch size."""
    import keras
    import tensorflow as tf

    image = model.inputs[0]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serve",
        fn=lambda image: model(image, training=False),
        input_signature=[tf.TensorSpec(image.shape, image.dtype, name="image")],
    )
    try:
        archive.write_out(path, verbose=False)
    except tf.errors.OpError as error:  # what TensorFlow's file system raises
        raise OSError(command.first_line(error)) from error


def _serve(path):
    """Returns a function from images to named outputs, by the SavedModel's default signature."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
    except Exception as error:  # TensorFlow has no common base for what loading may raise
        raise ParityError(f"TensorFlow cannot load the SavedModel: {error}") from error

    def serve(images, loaded=loaded):  # the signature alone would not keep the variables alive
        outputs = signature(image=tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    return serve


def main() -> None:
    command.set_up("tensorflow")
    pipeline.run(SavedModel, pipeline.export_parser(__doc__, "saved_model/"))


if __name__ == "__main__":
    main()
