"""What the command lines of the exporters share."""

import pathlib
import signal
import sys

from export import checkpoint, command, images, parity
from export.files import report_path

_OWN = ("model.keras", "run.json", "report.json", "history.csv", "backup")


def export_parser(description, output):
    """Command line of an exporter; `output` is the default name in the checkpoint folder."""
    result = command.Parser(description)
    result.add_argument(
        "--model", type=pathlib.Path, required=True, help="checkpoint folder of a recipe"
    )
    result.add_argument("--output", type=pathlib.Path, help=f"default: {output} in that folder")
    result.add_argument("--overwrite", action="store_true", help="replace an existing output")
    result.add_argument(
        "--with-decoder", action="store_true", help="add the decoder's image as `reconstruction`"
    )
    result.add_argument(
        "--tolerance",
        type=command.positive(float),
        default=1e-5,
        help="largest difference to Keras",
    )
    result.add_argument(
        "--limit", type=command.positive(int), help="compare on at most so many test images"
    )
    return result


def file_parser(description, providers):
    """Command line of a program that reads a checkpoint and an ONNX file of it.

    Args:
        description: What the program does, in one line.
        providers: Names of the providers that the file may run on.
    """
    result = command.Parser(description)
    result.add_argument("--model", type=pathlib.Path, required=True, help="checkpoint folder")
    result.add_argument("--onnx", type=pathlib.Path, help="default: model.onnx in that folder")
    result.add_argument("--provider", choices=list(providers), default="cpu")
    return result


def run_export(export, args, place):
    """Loads the checkpoint, exports it, and prints the steps and the table.

    Ends the program with one line on stderr: code 2 for input that cannot be used, code 1 for a
    file that failed its check and was not written.

    Args:
        export: Function `(path, checkpoint, test_images, show)` that returns a `Report`.
        args: Arguments of `export_parser`.
        place: Function from the content of `run.json` to the path to write.
    """
    path = None
    signal.signal(signal.SIGTERM, lambda *_: command.fail("terminated", code=143))
    try:
        loaded = checkpoint.load(args.model)
        path = place(loaded.run)
        written = [name.resolve() for name in (path, report_path(path))]
        own = [(loaded.folder / name).resolve() for name in _OWN]
        if any(name in own or folder in name.parents for name in written for folder in own):
            raise ValueError(f"--output {path} is, or has its report in, the checkpoint itself")
        print(f"✓ {'load':<11}{args.model}, SHA-256 {loaded.sha256[:16]}…, every weight finite")
        with command.required():  # scikit-learn, for the images of digits
            report = export(path, loaded, images.of_run(loaded.run, args.limit), print)
        print("\n".join(map(str, report.rows)))
        print(f"✓ {path} agrees with {args.model}: {report.comparison.summary}")
        warn(report.comparison)
    except ValueError as error:
        command.fail(error)
    except KeyboardInterrupt:
        command.fail("interrupted", code=130)
    except BrokenPipeError:
        sys.stdout = None  # or Python complains of it once more at its end
        command.fail("nobody reads the output any more", code=1)
    except OSError as error:
        command.fail(f"{path or args.model} cannot be written: {error.strerror or error}")
    except parity.ParityError as error:
        kept = f", the earlier {path} was kept" if path.exists() else ""
        command.fail(f"{error}; no file was written{kept}", code=1)


def warn(comparison):
    """Prints the warnings of a comparison on stderr, a line each.

    Args:
        comparison: An `export.parity.Comparison`.
    """
    for line in comparison.warnings:
        print(f"warning: {line}", file=sys.stderr)
