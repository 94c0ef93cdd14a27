"""What the programs export, and the images on which they compare: options and loading."""

import dataclasses
import pathlib
from collections.abc import Sequence

from export import checkpoint, command, given, images
from export.about import About, labels_argument
from export.checkpoint import Checkpoint
from export.images import Images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What a program exports, and the images on which it compares.

    Args:
        model: Path of a checkpoint folder or of a single Keras file.
        labels: Names of a single file's classes. Defaults to None: they are not known.
        input_range: Its values of black and white pixels. Defaults to None: 0 and 255.
        images: Path of pictures or of an `.npz` file. Defaults to None: the checkpoint's.
        limit: Largest number of test images. Defaults to None: all.
    """

    model: pathlib.Path
    labels: Sequence[str] | None = None
    input_range: Sequence[float] | None = None
    images: pathlib.Path | None = None
    limit: int | None = None

    @classmethod
    def of_arguments(cls, args: dict) -> "Source":
        """Takes what belongs to the source out of the arguments of `export_parser`."""
        return cls(**{field.name: args.pop(field.name) for field in dataclasses.fields(cls)})

    def load(self) -> Checkpoint:
        """Loads the model, as `export.checkpoint.load` does."""
        return checkpoint.load(self.model, self.labels, self.input_range)

    def test_images(self, loaded: Checkpoint, about: About | None = None) -> Images | None:
        """Returns the images to compare on, or None where none are at hand.

        Args:
            loaded: What `load` returned.
            about: What is known of the model. Defaults to None: what was loaded with it.
        """
        if self.images is None:
            return images.of_run(loaded.run, self.limit, loaded.folder)
        from export.inference import check_model

        check_model(loaded.model)
        image = loaded.model.inputs[0]
        return given.read(self.images, image, about or About.of_run(loaded.run), self.limit)


def add_model(parser: command.Parser) -> None:
    """Adds the options that tell which model is meant, and what its file does not tell."""
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        required=True,
        help="checkpoint folder of a recipe, or a file that Keras saved (a.keras)",
    )
    parser.add_argument(
        "--labels",
        type=labels_argument,
        help="of a single file: names of the classes with commas, or a file with one on each line",
    )
    parser.add_argument(
        "--input-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="of a single file: values of black and white pixels; default: 0 255",
    )


def add_images(parser: command.Parser) -> None:
    """Adds the options that tell on which images a file is compared."""
    parser.add_argument(
        "--images",
        type=pathlib.Path,
        help="folder of pictures or of class folders, or an .npz file with x and y, to compare on; "
        "default: the checkpoint's test images, or random pixels",
    )
    parser.add_argument(
        "--limit", type=command.positive(int), help="compare on at most so many test images"
    )
