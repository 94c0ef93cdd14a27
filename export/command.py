"""What the command lines of kcaps' programs share."""

import argparse
import contextlib
import logging
import math
import os
import pathlib
import sys


@contextlib.contextmanager
def quiet_tensorflow():
    """Context in which TensorFlow is imported without its start-up messages.

    They come from C++ before any log level applies, and would bury the one line that these
    programs print on bad input.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
        import tensorflow as tf

        tf.config.list_logical_devices()  # starts the runtime, which has messages of its own
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit code 2."""

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice on tracing, not on input

    def error(self, message):
        fail(message)


def fail(message, code=2):
    """Ends the program with one line on stderr: code 2 for input that cannot be used."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


def positive(kind):
    """Argument type: a positive number of that kind, an integer below 2³¹."""

    def parse(text):
        value = kind(text)
        if not 0 < value < (2**31 if kind is int else math.inf):
            raise argparse.ArgumentTypeError(f"must be positive and finite, received {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names the type when `kind` refuses the text
    return parse


def first_line(error):
    """Kind and first line of an error, for messages of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def export_parser(description, output):
    """Command line of an exporter; `output` is the default name in the checkpoint folder."""
    result = Parser(description)
    result.add_argument(
        "--model", type=pathlib.Path, required=True, help="checkpoint folder of a recipe"
    )
    result.add_argument("--output", type=pathlib.Path, help=f"default: {output} in that folder")
    result.add_argument("--overwrite", action="store_true", help="replace an existing output")
    result.add_argument(
        "--with-decoder", action="store_true", help="add the decoder's image as `reconstruction`"
    )
    result.add_argument(
        "--tolerance", type=positive(float), default=1e-5, help="largest difference to Keras"
    )
    result.add_argument(
        "--limit", type=positive(int), help="compare on at most so many test images"
    )
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
    from export import checkpoint, images, parity

    path = None
    try:
        loaded = checkpoint.load(args.model)
        path = place(loaded.run)
        own = [loaded.folder / name for name in ("model.keras", "run.json", "report.json")]
        if path.resolve() in [name.resolve() for name in own]:
            raise ValueError(f"--output {path} is a file of the checkpoint itself")
        print(f"✓ {'load':<11}{args.model}, SHA-256 {loaded.sha256[:16]}…, every weight finite")
        report = export(path, loaded, images.of_run(loaded.run, args.limit), print)
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(f"{path or args.model} cannot be written: {error.strerror or error}")
    except parity.ParityError as error:
        kept = f", the earlier {path} was kept" if path.exists() else ""
        fail(f"{error}; no file was written{kept}", code=1)
    print(report)
    print(f"✓ {path} agrees with {args.model}: {report.comparison.summary}")
