"""Settings of programs: frozen dataclasses, whose fields are the options of a command line."""

import dataclasses
import pathlib
import sys
import typing

import keras

import kcaps
from export.command import Parser, positive, tell_how_to_resume
from harness import distribution
from harness.run_folder import Run
from kcaps.backend.keras_private import leave_tensorflow_out
from pictures_of import data

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_PLACES = ("beginning", "middle", "images", "folder")  # of an option in `--help` and in run.json


def option(
    default: object,
    help: str,
    *,
    place: str = "middle",
    may_change: bool = False,
    positional: bool = False,
    **arguments: object,
) -> typing.Any:
    """Returns a field of settings that is an option of the command line.

    Args:
        default: What the option is by default. False makes a flag. A tuple becomes a list, as
            several words of a command line do.
        help: What `--help` says of it.
        place: Where `--help` shows it: at the `"beginning"`, in the `"middle"`, among those of the
            `"images"` or of the `"folder"`.
        may_change: Whether a run that goes on may have another value than it began with.
        positional: Whether it is given by its place, without its name.
        **arguments: Further arguments of `Parser.add_argument`.
    """
    if default is False:
        arguments["action"] = "store_true"
    elif not positional:
        arguments["default"] = list(default) if isinstance(default, tuple) else default
    return dataclasses.field(
        default=default,
        metadata={
            "place": place,
            "may_change": may_change,
            "positional": positional,
            "arguments": {"help": help, **arguments},
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of any program."""

    recipe: str  # the program's name

    how_to_resume: typing.ClassVar[str | None] = None  # after Ctrl-C, as far as the program knows

    @classmethod
    def defaults_for(cls, words: list[str], **given: object) -> dict:
        """Returns defaults in place of those of the class.

        Args:
            words: The command line, on whose other words they may depend.
            **given: Defaults of the program.
        """
        return {}

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        """Tells the parser which options the command line of this program leaves unused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
    """Settings of a program that reads images."""

    data_dir: str | None = option(
        None,
        "folder of NAME.npz in Keras' format, or that tensorflow-datasets has prepared (default: "
        "its own, where it downloads to, or that of Keras where TensorFlow is not installed)",
        place="images",
        may_change=True,
        metavar="FOLDER",
    )
    limit: int | None = option(
        None,
        "at most so many training and so many test images",
        place="images",
        type=positive(int),
    )
    synthetic: bool = option(
        False, "generated images of the same shape as the data's", place="images"
    )
    precision: str = option(
        "float32",
        "of computations: in a mixed one, products are of 16 bits and weights of 32",
        place="images",
        choices=PRECISIONS,
    )

    def load_images(
        self, name: str | None = None, validation_share: float = data.VALIDATION_SHARE
    ) -> data.Images:
        """Returns the images of a name, by default of `--data`, as `data.load` does."""
        name = self.data if name is None else name
        return data.load(name, self.data_dir, self.limit, self.synthetic, validation_share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(ImageSettings):
    """Settings of a program that trains one model in a checkpoint folder."""

    output: pathlib.Path = option(
        pathlib.Path("ckpt/"),
        "checkpoint folder",
        place="beginning",
        may_change=True,
        type=pathlib.Path,
    )
    epochs: int | None = option(
        None,
        "passes over the training images",
        place="beginning",
        may_change=True,
        type=positive(int),
    )
    seed: int = option(0, "of all that is drawn at random", place="beginning", type=int)
    resume: bool = option(False, "go on with the run in --output", place="folder", may_change=True)
    overwrite: bool = option(False, "replace the run in --output", place="folder", may_change=True)

    @property
    def run(self) -> Run:
        """The run that these settings ask for."""
        arguments = {
            field.name: getattr(self, field.name)
            for field in options(type(self))
            if not field.metadata["may_change"]
        }
        return Run(
            recipe=self.recipe,
            output=self.output,
            epochs=self.epochs,
            seed=self.seed,
            batch_size=getattr(self, "batch_size", None),
            arguments=arguments | {"recipe": self.recipe},
            resume=self.resume,
            overwrite=self.overwrite,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedSettings(RunSettings):
    """Settings of a program that can train on several devices or machines."""

    distribute: str = option(
        "none",
        "mirrored: all GPUs of this machine, or two CPU devices where it has none; multi-worker: "
        "the machines in TF_CONFIG, on each of which the same command runs",
        place="images",
        may_change=True,
        choices=distribution.STRATEGIES,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapsNetSettings(DistributedSettings):
    """Settings of a program that trains a capsule network by gradients."""

    batch_size: int = option(32, "images of a step", type=positive(int))
    routing: str = option("dynamic", "class capsules", choices=list(kcaps.routing.ROUTINGS))
    learning_rate: float = option(1e-3, "at the start", type=positive(float))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings(ImageSettings):
    """Settings of a study: many trainings, whose results are in one folder."""

    output: pathlib.Path = option(
        pathlib.Path("studies/"),
        "folder of results; a study that is in it goes on",
        type=pathlib.Path,
    )

    how_to_resume: typing.ClassVar[str] = "the same command goes on"

    @property
    def remarks(self) -> str:
        """In what precision and images are not the usual ones, each after a comma."""
        text = f", {self.precision}" if self.precision != "float32" else ""
        text += f", at most {self.limit} images" if self.limit else ""
        return text + (", synthetic images" if self.synthetic else "")


MEASUREMENTS = option(
    None,
    "CSV file, as those of docs/results/, to add the table's numbers to",
    type=pathlib.Path,
    metavar="FILE",
)


def options(settings: type) -> list[dataclasses.Field]:
    """Returns the fields of settings that are options, in the order in which `--help` has them."""
    fields = [field for field in dataclasses.fields(settings) if field.metadata]
    return sorted(fields, key=lambda field: _PLACES.index(field.metadata["place"]))


def read(
    settings: type, description: str, *, has_folder: bool = True, **defaults: object
) -> Settings:
    """Returns what a program's command line asks for.

    Args:
        settings: Class of the settings.
        description: Text of `--help`.
        has_folder: Whether images come from a folder, those of some `--data` at least.
        **defaults: Defaults of this program, in place of those of the class.
    """
    parser = Parser(description)
    tell_how_to_resume(settings.how_to_resume)
    folder = None  # argparse has no help for a group without options
    for field in options(settings):
        group = parser
        if field.metadata["place"] == "folder":
            group = folder = folder or parser.add_mutually_exclusive_group()
        name = f"--{field.name.replace('_', '-')}"
        name = field.name if field.metadata["positional"] else name
        group.add_argument(name, **field.metadata["arguments"])
    parser.set_defaults(**defaults, **settings.defaults_for(sys.argv[1:], **defaults))
    is_digits = (lambda args: getattr(args, "data", None) == "digits") if has_folder else None
    parser.refuse(["--data-dir"], is_digits, data.FROM_NO_FOLDER)
    if issubclass(settings, ImageSettings):
        parser.refuse(["--data-dir"], lambda args: args.synthetic, "--synthetic reads no folder")
    settings.add_rules(parser)
    found = settings(recipe=pathlib.Path(parser.prog).stem, **vars(parser.parse_args()))
    leave_tensorflow_out()
    if issubclass(settings, ImageSettings):
        keras.config.set_dtype_policy(found.precision)
    return found
