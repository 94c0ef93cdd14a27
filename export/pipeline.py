"""The way from a model to a checked file: fold, write, compare, report and put in place."""

import dataclasses
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from export import command, files, images
from export.about import About
from export.checkpoint import Checkpoint
from export.errors import ParityError
from export.images import Images
from export.report import Report, report_path
from export.source import Source, add_images, add_model

if TYPE_CHECKING:
    import keras

    from export.parity import Comparison
    from export.reference import Reference


_CHECKPOINT_FILES = ("model.keras", "run.json", "report.json", "history.csv", "backup")


@dataclasses.dataclass
class Job:
    """One export on its way: the model, the images, and the steps that are done.

    Args:
        reference: The Keras model that the file must compute, an `export.reference.Reference`.
        test_images: The images to compare on.
        checkpoint: The checkpoint of the model, or None.
        path: Path to write to, in a folder that is removed at the end.
        show: Function of one line of text, called after each step, or None.
        about: What is known of the model's classes and pixels.
    """

    reference: "Reference"
    test_images: Images
    checkpoint: Checkpoint | None
    path: pathlib.Path
    show: Callable | None
    about: About = About()
    folded: "keras.Model | None" = None  # the same model, with larger kernels and less to compute
    steps: list = dataclasses.field(default_factory=list)

    def done(self, name: str, result: str) -> None:
        """Adds a step, and shows it."""
        self.steps.append({"step": name, "result": result})
        if self.show is not None:
            self.show(f"✓ {name:<11}{result}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A format of exported files, with its settings: the base class of all.

    Args:
        with_decoder: Whether there is an output `reconstruction`.
        tolerance: Largest absolute difference to Keras that passes.
        overwrite: Whether an existing output may be replaced.
        labels: Names of the classes. Defaults to None: those of the checkpoint.
        input_range: Values of black and white pixels. Defaults to None: those of the checkpoint, or
            0 and 255.
    """

    file_name: ClassVar[str]

    with_decoder: bool = False
    tolerance: float = 1e-5
    overwrite: bool = True
    labels: Sequence[str] | None = None
    input_range: Sequence[float] | None = None

    def write(self, job: Job) -> None:
        """Writes `job.folded` to `job.path`."""
        raise NotImplementedError

    def compare(self, job: Job) -> "Comparison":
        """Opens what was written, and compares it with the model of `job.reference`.

        Raises:
            ParityError: if it does not load or does not compute the same.
        """
        raise NotImplementedError

    def describe(self, job: Job) -> dict:
        """Returns the plain values with which the report begins."""
        raise NotImplementedError

    def finish(self, job: Job, report: Report) -> None:
        """Adds to what was written what needs the report."""

    def refuse(self, path: pathlib.Path) -> None:
        """Raises a `ValueError` for settings, a path or a machine that cannot be used."""

    def refuse_images(self, test_images: Images) -> None:
        """Raises a `ValueError` for images by which the target cannot be judged."""

    def folds_scales(self) -> bool:
        """Tells whether the scales of pixels may be multiplied into kernels."""
        return True

    def keeps_half_precision(self) -> bool:
        """Tells whether layers in half precision stay so; otherwise, they are copied to float32."""
        return False

    def default_path(self, checkpoint: Checkpoint) -> pathlib.Path:
        """Returns where the export of a checkpoint lies, unless its user says otherwise."""
        return checkpoint.place(self.file_name)

    def companions(self, path: pathlib.Path, about: About) -> dict:
        """Returns paths of further text files, with functions of `job.path` that make them."""
        return {}

    def about(self, checkpoint: Checkpoint | None) -> About:
        """Returns what is known of a model: what the settings tell, or else its checkpoint."""
        known = About.of_run(checkpoint.run if checkpoint else {})
        told = {"labels": self.labels, "input_range": self.input_range}
        return dataclasses.replace(known, **{k: v for k, v in told.items() if v is not None})

    def export(
        self,
        model: "keras.Model",
        path: str | os.PathLike,
        test_images=None,
        checkpoint: Checkpoint | None = None,
        on_step: Callable | None = None,
    ) -> Report:
        """Writes a model to a path, where it appears only after it has passed the comparison.

        `export.onnx.export_onnx` explains the arguments.
        """
        from export.reference import Reference

        path = pathlib.Path(path)
        self.refuse(path)
        reference = Reference.of(model, self.with_decoder, not self.keeps_half_precision())
        about = self.about(checkpoint)
        classes = reference.num_classes
        about.check_classes(classes)
        test_images = images.choose(test_images, checkpoint, reference.model.inputs[0], about)
        about = about.named_by(test_images, classes)
        self.refuse_images(test_images)
        companions = self.companions(path, about)
        places = [path, report_path(path), *companions]
        with files.aside(places, self.overwrite) as folder:
            made = folder / self.file_name
            job = Job(reference, test_images, checkpoint, made, on_step, about)
            self._fold(job)
            self.write(job)
            report = self._compared(job)
            self.finish(job, report)
            texts = [report.json(), *(text(job.path) for text in companions.values())]
            made = [job.path, *(folder / f"text{number}" for number in range(len(texts)))]
            for file, text in zip(made[1:], texts, strict=True):
                file.write_text(text, encoding="utf-8")
            files.put(dict(zip(places, made, strict=True)), folder)
        return report

    def _compared(self, job):
        """Compares what was written with the model; returns the report."""
        comparison = self.compare(job)
        steady = ", ".join(output.output for output in comparison.steady)
        steady = f"; hardly varied: {steady}" if steady else ""
        job.done("compare", f"{job.test_images}, {comparison.differences}{steady}")
        if comparison.half is not None:
            job.done("half", str(comparison.half))
        image = job.reference.model.inputs[0]
        about = {
            **self.describe(job),
            **dataclasses.asdict(job.about),
            "input_shape": list(image.shape[1:]),
            "input_dtype": image.dtype,
        }
        notes = tuple(filter(None, [job.test_images.warning]))
        return Report(job.steps, comparison, str(job.test_images), about, notes)

    def _fold(self, job):
        """Multiplies into kernels what may be, after the step to float32 if there was one."""
        from export.fold import fold
        from export.half import half_dtypes

        if job.reference.original is not None:
            found = " and ".join(half_dtypes(job.reference.original))
            job.done("float32", f"layers that Keras computes in {found} are exported in float32")
        kept = half_dtypes(job.reference.model)
        if kept:  # products of kernels would be rounded once more, or once less
            job.folded, lines = job.reference.model, [f"nothing, in {' and '.join(kept)}"]
        else:
            job.folded, lines = fold(job.reference.model, scales=self.folds_scales())
        job.done("fold", "; ".join(lines) or "nothing to multiply into kernels")


def export_checkpoint(
    target: Target, source: Source | pathlib.Path, path: pathlib.Path | None = None
) -> tuple[pathlib.Path, Report]:
    """Loads a model, exports it, and prints the steps and the table, as a program.

    Ends the program with one line on stderr: code 2 for input that cannot be used, code 1 for a
    file that failed its check and was not written.

    Args:
        target: The format, with its settings.
        source: The model and the images to compare on, or the checkpoint folder alone.
        path: Path to write to. Defaults to None: the target's own.

    Returns:
        The path, and the report.
    """
    signal.signal(signal.SIGTERM, lambda *_: command.fail("terminated", code=143))
    source = source if isinstance(source, Source) else Source(model=source)
    output = None
    try:
        loaded = source.load()
        output = path or target.default_path(loaded)
        _refuse_checkpoint_files(output, loaded)
        print(f"✓ {'load':<11}{source.model}, SHA-256 {loaded.sha256[:16]}…, every weight finite")
        report = target.export(loaded.model, output, source.test_images(loaded), loaded, print)
        print("\n".join(map(str, report.rows)))
        print(f"✓ {output} agrees with {source.model}: {report.comparison.summary}")
        print_warnings(report)
        return output, report
    except ValueError as error:
        command.fail(error)
    except KeyboardInterrupt:
        command.fail("interrupted", code=130)
    except BrokenPipeError:
        command.fail_unread()
    except OSError as error:
        command.fail(f"{output or source.model} cannot be written: {error.strerror or error}")
    except ParityError as error:
        kept = f", the earlier {output} was kept" if output.exists() else ""
        command.fail(f"{error}; no file was written{kept}", code=1)


def run(target: type[Target], parser: command.Parser) -> None:
    """Exports what the command line of a program asks for.

    Args:
        target: The format, whose settings are the options of the parser.
        parser: What `export_parser` returned.
    """
    args = vars(parser.parse_args())
    source, output = Source.of_arguments(args), args.pop("output")
    export_checkpoint(target(**args), source, output)


def _refuse_checkpoint_files(output, loaded):
    """Raises a `ValueError` for an output that would replace a file of the checkpoint itself."""
    written = [path.resolve() for path in (output, report_path(output))]
    kept = [(loaded.folder / name).resolve() for name in _CHECKPOINT_FILES]
    if loaded.file is not None:
        kept = [loaded.file.resolve()]
    if any(path in kept or place in path.parents for path in written for place in kept):
        raise ValueError(f"--output {output} is, or has its report in, the checkpoint itself")


def print_warnings(outcome) -> None:
    """Prints the warnings of a report or a comparison on stderr, a line each."""
    for line in outcome.warnings:
        print(f"warning: {line}", file=sys.stderr)


def export_parser(description: str, output: str) -> command.Parser:
    """Returns the command line of an exporter, whose default output has that name."""
    parser = command.Parser(description.splitlines()[0])
    add_model(parser)
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help=f"default: {output} in that folder, or beside the file with its name",
    )
    add_images(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--with-decoder", action="store_true", help="add the decoder's image as `reconstruction`"
    )
    parser.add_argument(
        "--tolerance",
        type=command.positive(float),
        default=1e-5,
        help="largest difference to Keras",
    )
    return parser


def file_parser(description: str, providers) -> command.Parser:
    """Returns the command line of a program that reads a checkpoint and an ONNX file of it."""
    parser = command.Parser(description.splitlines()[0])
    add_model(parser)
    parser.add_argument(
        "--onnx", type=pathlib.Path, help="default: model.onnx in that folder, or beside the file"
    )
    parser.add_argument("--provider", choices=list(providers), default="cpu")
    return parser
