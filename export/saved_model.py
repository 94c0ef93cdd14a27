"""Export of Keras models with kcaps layers to SavedModel, checked in TensorFlow.

python -m export.saved_model --model ckpt/
"""

import os
import pathlib

from export import command

with command.required(__name__ == "__main__"), command.quiet_tensorflow(__name__ == "__main__"):
    import tensorflow as tf

with command.required(__name__ == "__main__"):
    import keras

    import kcaps
    from export import files, images, program
    from export.comparing import compare_model
    from export.fold import fold
    from export.inference import inference_model
    from export.parity import ParityError
    from export.report import Report, Steps, compared


def export_saved_model(
    model,
    path,
    test_images=None,
    checkpoint=None,
    on_step=None,
    with_decoder=False,
    tolerance=1e-5,
    overwrite=True,
):
    """Writes a SavedModel that is known to compute what the Keras model does.

    The SavedModel needs neither kcaps nor Keras to be served. It is written aside, loaded with
    `tf.saved_model.load` and compared with the model at batch sizes 1, 7 and 64; only then does
    it appear at `path`, with a report `path.json` beside it.

    Args:
        model: A functional Keras model with one input.
        path: Path of the folder to write.
        test_images: An `export.images.Images` to compare on. Defaults to None: those of the
            checkpoint's data set, or random ones.
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
    """
    path, steps = pathlib.Path(path), Steps(on_step)
    if os.path.lexists(path) and not (path / "saved_model.pb").is_file():
        raise ValueError(f"{path} exists and is not a SavedModel. Give another output folder.")
    places = [path, files.report_path(path)]
    reference = inference_model(model, with_decoder)
    test_images = images.choose(test_images, checkpoint, reference.inputs[0])
    with files.aside(places, overwrite) as folder:
        folded, lines = fold(reference)
        steps("fold", "; ".join(lines) or "nothing to multiply into kernels")
        new = folder / "new"
        try:
            _write(folded, new)
        except tf.errors.OpError as error:  # what TensorFlow's file system raises
            raise OSError(command.first_line(error)) from error
        steps("write", "TensorFlow operations without XLA, batch size free")
        candidate = _serve(new)
        steps("load", f"TensorFlow {tf.__version__}, signature serving_default")
        comparison = compare_model(reference, candidate, test_images, tolerance)
        comparison.verify()
        steps("compare", compared(test_images, comparison))
        about = {
            "format": "saved_model",
            "kcaps": kcaps.__version__,
            "tolerance": tolerance,
            "checkpoint_sha256": checkpoint and checkpoint.sha256,
        }
        report = Report(steps.done, comparison, str(test_images), about)
        (folder / "report").write_text(report.json(), encoding="utf-8")
        files.put(dict(zip(places, [new, folder / "report"], strict=True)), folder)
    return report


def _write(model, path):
    image = model.inputs[0]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serve",
        fn=lambda image: model(image, training=False),
        input_signature=[tf.TensorSpec(image.shape, image.dtype, name="image")],
    )
    archive.write_out(path, verbose=False)


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
    args = program.export_parser(__doc__.splitlines()[0], "saved_model/").parse_args()

    def export(path, loaded, test_images, show):
        return export_saved_model(
            loaded.model,
            path,
            test_images,
            loaded,
            show,
            args.with_decoder,
            args.tolerance,
            args.overwrite,
        )

    program.run_export(export, args, lambda run: args.output or args.model / "saved_model")


if __name__ == "__main__":
    main()
