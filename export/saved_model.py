"""Export of Keras models with kcaps layers to SavedModel, checked in TensorFlow.

python -m export.saved_model --model ckpt/
"""

import pathlib
import shutil
import tempfile

from export import command

with command.quiet_tensorflow():
    import tensorflow as tf

import keras

from export.checkpoint import inference_model
from export.parity import ParityError, comparison_images, verify


def export_saved_model(model, path, tolerance=1e-5, run=None):
    """Writes a SavedModel that is known to compute what the Keras model does.

    The SavedModel needs neither kcaps nor Keras to be served. It is written aside, loaded with
    `tf.saved_model.load` and compared with the model at batch sizes 1, 7 and 64; only then does
    it appear at `path`.

    Args:
        model: A functional Keras model with one input.
        path: Path of the folder to write. An existing SavedModel is replaced.
        tolerance: Largest absolute difference to Keras that passes. Defaults to 1e-5.
        run: Content of the checkpoint's `run.json`, which names the images to compare on.
            Defaults to None: random images.

    Returns:
        The rows of the comparison (`export.parity.Row`) and a description of the images.

    Raises:
        ValueError: for a model that cannot be exported, or a `path` that holds something else.
        OSError: if `path` cannot be written.
        ParityError: if the files do not load or do not compute the same; nothing is written.

    Example:

    >>> rows, images = export_saved_model(model, "saved_model")
    """
    path = pathlib.Path(path)
    if path.exists() and not (path / "saved_model.pb").is_file():
        raise ValueError(f"{path} exists and is not a SavedModel. Give another output folder.")
    model = inference_model(model)
    image = model.inputs[0]
    images, description = comparison_images(run or {}, image)

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work:
        aside = pathlib.Path(work) / "new"
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint(
            name="serve",
            fn=lambda image: model(image, training=False),
            input_signature=[tf.TensorSpec(image.shape, image.dtype, name="image")],
        )
        archive.write_out(aside, verbose=False)
        rows = verify(model.predict_on_batch, _serve(aside), images, tolerance)
        if path.exists():
            path.rename(pathlib.Path(work) / "old")
        shutil.move(aside, path)
    return rows, description


def _serve(path):
    """Function from images to named outputs, by the SavedModel's default signature."""
    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
    except Exception as error:  # TensorFlow has no common base for what loading may raise
        raise ParityError(f"TensorFlow cannot load the SavedModel: {error}") from error

    def serve(images, loaded=loaded):  # the signature alone would not keep the variables alive
        outputs = signature(image=tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    return serve


def main():
    args = command.export_parser(__doc__.splitlines()[0], "saved_model/").parse_args()
    command.run_export(export_saved_model, args, "saved_model")


if __name__ == "__main__":
    main()
