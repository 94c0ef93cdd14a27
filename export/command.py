"""What the command lines of kcaps' programs share."""

import argparse
import contextlib
import dataclasses
import json
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


def export_parser(description, output):
    """Command line of an exporter; `output` is the default name in the checkpoint folder."""
    result = Parser(description)
    result.add_argument(
        "--model", type=pathlib.Path, required=True, help="checkpoint folder of a recipe"
    )
    result.add_argument("--output", type=pathlib.Path, help=f"default: {output} in that folder")
    result.add_argument(
        "--tolerance", type=positive(float), default=1e-5, help="largest difference to Keras"
    )
    return result


def run_export(export, args, name, **options):
    """Loads the checkpoint, exports it, and prints the table.

    Ends the program with one line on stderr: code 2 for input that cannot be used, code 1 for a
    file that failed its check and was removed.
    """
    from export import checkpoint, parity

    output = args.output or args.model / name
    try:
        loaded = checkpoint.load(args.model)
        rows, images = export(
            loaded.model, output, tolerance=args.tolerance, run=loaded.run, **options
        )
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror or error}")
    except parity.ParityError as error:
        kept = f", the earlier {output} was kept" if output.exists() else ""
        fail(f"{error}; no file was written{kept}", code=1)
    worst = max(row.difference for row in rows if row.output != "class")
    report = {
        "largest_difference": worst,
        "images": images,
        "comparison": [dataclasses.asdict(row) for row in rows],
    }
    report_path(output).write_text(json.dumps(report, indent=2) + "\n")
    print(f"{args.model} → {output}, compared with Keras on {images}")
    print("\n".join(map(str, rows)))
    print(f"✓ {output} computes what the checkpoint does; largest difference {worst:.1e}")


def report_path(output):
    """Where the report of an exported file or folder lies: beside it."""
    return output.with_name(f"{output.name}.json")
