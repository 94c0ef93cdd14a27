"""Names of classes with their lengths for pictures, by a checkpoint, a Keras or an ONNX file.

python -m export.predict --model ckpt/ a.png b.jpg
"""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from export import command
from export.about import About, labels_argument
from export.outputs import class_columns, class_output
from export.pictures import FITS, picture_files, read_picture, read_pictures

_BATCH = 32
_TOP = 5
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}


class Predictor:
    """A trained model that tells the classes of pictures.

    For an ONNX file, NumPy, ONNX Runtime and Pillow suffice; names of the classes and the range of
    pixels are in its metadata. A checkpoint folder or a Keras file needs Keras on any backend.

    Args:
        model: Path of a checkpoint folder, a Keras file (`a.keras`) or an ONNX file (`a.onnx`).
        labels: Names of the classes. Defaults to None: those that the checkpoint or the file tells.
        input_range: Values of black and white pixels. Defaults to None: as told there, or 0 and
            255.
        fit: How pictures of another shape are fitted: `"stretch"`, `"crop"` or `"pad"`. Defaults to
            None: as in training.

    Raises:
        ValueError: if the model cannot be read or takes no pictures, or its classes have no names.

    Example:

    >>> report = export_onnx(model, "model.onnx", labels=["cat", "dog", "hen"])
    >>> Predictor("model.onnx").labels
    ['cat', 'dog', 'hen']
    """

    def __init__(
        self,
        model: str | os.PathLike,
        labels: Sequence[str] | None = None,
        input_range: Sequence[float] | None = None,
        fit: str | None = None,
    ):
        path = pathlib.Path(model)
        is_onnx = path.suffix == ".onnx"
        if is_onnx and not os.path.exists(path):
            raise ValueError(f"{path} does not exist: export it, or give a checkpoint folder")
        if os.path.isfile(path) and path.suffix not in (".keras", ".onnx"):
            raise ValueError(
                f"{path} is no model that can be read: give a checkpoint folder, a file that "
                "model.save('a.keras') wrote, or an ONNX file, a.onnx"
            )
        opened = _open_onnx if is_onnx else _open_keras
        told = {"labels": labels, "input_range": input_range, "fit": fit}
        told = {name: value for name, value in told.items() if value is not None}
        self._run, shape, self._dtype, self._about = opened(path, told)
        if len(shape) != 3 or shape[2] not in (1, 3, 4):
            raise ValueError(
                f"{path} takes values of shape {tuple(shape)}, and pictures are height × width × "
                "1, 3 or 4 channels"
            )
        if self._about.labels is None:
            raise ValueError(
                f"{path} does not tell the names of its classes: give them by --labels a,b,c "
                "(labels=)"
            )
        self.labels = list(self._about.labels)
        self.size, self.channels = tuple(shape[:2]), shape[2]

    def predict(self, picture) -> dict[str, float]:
        """Returns the lengths, or probabilities, of a picture's classes by their names.

        The largest is the first.

        Args:
            picture: Path of a PNG, JPEG, BMP or GIF file, or a Pillow image.

        Raises:
            ValueError: if the file is no such picture.
        """
        pixels = read_picture(picture, self.size, self.channels, self._about.fit)
        return self._classes(pixels[np.newaxis])[0]

    def predict_files(self, paths: Sequence[str | os.PathLike]) -> list[dict[str, float]]:
        """Returns what `predict` does for each of many files; the first bad ones are told at once.

        Raises:
            ValueError: if some of the files are no pictures.
        """
        pixels = read_pictures(paths, self.size, self.channels, self._about.fit)
        starts = range(0, len(pixels), _BATCH)
        return [row for start in starts for row in self._classes(pixels[start : start + _BATCH])]

    def _classes(self, pixels):
        """Returns a dict of names and values for each of some pictures of bytes."""
        try:
            outputs = self._run(self._about.scaled(pixels, self._dtype))
            outputs = {name: np.asarray(value) for name, value in outputs.items()}
        except Exception as error:  # of whichever library computes it
            reason = command.first_line(error)
            raise ValueError(f"the model cannot be computed on pictures: {reason}") from error
        name = class_output(outputs)
        if name is None:
            found = {name: value.shape[1:] for name, value in outputs.items()}
            raise ValueError(f"the model has no output of one value for each class, but {found}")
        values = outputs[name].astype("float32")
        self._about.check_classes(values.shape[1])
        if not np.isfinite(values).all():
            raise ValueError(f"the model gives values that are not finite ({name})")
        columns = class_columns(values) if len(self.labels) == 2 else values
        if columns.shape[1] != len(self.labels):
            raise ValueError(
                f"the model gives one value that is not from 0 to 1, {values[0, 0]:g}, for the two "
                f"classes {', '.join(self.labels)}"
            )
        rows = []
        for row in columns:
            order = np.argsort(-row, kind="stable")
            rows.append({self.labels[number]: float(row[number]) for number in order})
        return rows


def _open_onnx(path, told):
    """Opens an ONNX file: a function to named outputs, its input's shape and dtype, an `About`."""
    import onnxruntime  # noqa: F401  whose lack is told in one line

    from export.session import open_file, runner

    try:
        session = open_file(os.fspath(path), ["CPUExecutionProvider"])
        (image,) = session.get_inputs()
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ValueError(
            f"{path} cannot be read as an ONNX file of one input: {command.first_line(error)}"
        ) from error
    metadata = session.get_modelmeta().custom_metadata_map
    # What a user tells counts, even where the metadata are of another program.
    known = {name: metadata[name] for name in ("labels", "input_range", "fit") if name in metadata}
    try:
        about = About.of_metadata({k: v for k, v in known.items() if k not in told})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    batch, *shape = image.shape
    if not all(isinstance(size, int) for size in shape):
        raise ValueError(f"{path} takes images of no fixed size, {image.shape}")
    dtype = _DTYPES.get(image.type) or image.type.removeprefix("tensor(").removesuffix(")")
    size = batch if isinstance(batch, int) else None
    return _in_batches(runner(session, size), size), shape, dtype, _told(about, told)


def _in_batches(run, size):
    """Returns a function like `run` for a file that takes batches of one size alone, or None."""
    if size is None:
        return run

    def run_parts(images):
        parts = [run(images[start : start + size]) for start in range(0, len(images), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run_parts


def _open_keras(path, told):
    """Opens a checkpoint folder or a Keras file; returns what `_open_onnx` does."""
    from export import checkpoint
    from export.inference import inference_model

    loaded = checkpoint.load(path)
    model = inference_model(loaded.model)
    image = model.inputs[0]
    about = _told(About.of_run(loaded.run), told)
    return model.predict_on_batch, list(image.shape[1:]), image.dtype, about


def _told(about, told):
    return About(**{**vars(about), **told})


def _text(picture, classes, top):
    """Returns the lines for one picture: names and values, one below the other."""
    shown = list(classes.items())[:top]
    width = max(len(name) for name, _ in shown)
    return "\n".join([str(picture), *(f"  {name:<{width}}  {x:.4f}" for name, x in shown)])


def _parser():
    parser = command.Parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        required=True,
        help="checkpoint folder, Keras file (a.keras) or ONNX file (a.onnx)",
    )
    parser.add_argument(
        "pictures", type=pathlib.Path, nargs="+", help="PNG, JPEG, BMP or GIF files, or folders"
    )
    parser.add_argument(
        "--labels",
        type=labels_argument,
        help="names of the classes with commas, or a file with one on each line; default: those "
        "of the model",
    )
    parser.add_argument(
        "--input-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values of black and white pixels; default: those of the model, or 0 255",
    )
    parser.add_argument("--fit", choices=FITS, help="default: as in training, or stretch")
    parser.add_argument(
        "--top",
        type=command.positive(int),
        help=f"how many classes to tell; default: {_TOP}, and all of them with --json",
    )
    parser.add_argument("--json", action="store_true", help="print one list in JSON")
    return parser


def main() -> None:
    command.set_up(tensorflow=False)
    args = _parser().parse_args()
    if args.model.suffix != ".onnx":
        command.set_up()  # and Keras' backend with it
    try:
        pictures = [
            file
            for path in args.pictures
            for file in (picture_files(path) if path.is_dir() else [path])
        ]
        if not pictures:
            raise ValueError(f"{args.pictures[0]} holds no picture: no BMP, GIF, JPEG or PNG file")
        predictor = Predictor(args.model, args.labels, args.input_range, args.fit)
        found = list(zip(pictures, predictor.predict_files(pictures), strict=True))
    except (ValueError, OSError) as error:
        command.fail(error)
    if args.json:
        rows = [
            {"picture": str(picture), "classes": dict(list(classes.items())[: args.top])}
            for picture, classes in found
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    print("\n".join(_text(*pair, args.top or _TOP) for pair in found))


if __name__ == "__main__":
    main()
