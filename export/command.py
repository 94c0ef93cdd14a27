"""What the command lines of kcaps' programs share."""

import argparse
import contextlib
import io
import logging
import math
import os
import sys


@contextlib.contextmanager
def quiet_tensorflow(is_program=False, start=True):
    """Context in which TensorFlow is imported without its start-up messages.

    They come from C++ before any log level applies, and would bury the one line that these
    programs print on bad input.

    Args:
        is_program: Whether the importing module runs as a program that needs TensorFlow, whatever
            backend the environment asks for. A checkpoint does not depend on the backend.
        start: Whether to start TensorFlow's runtime, after which its devices are settled.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if is_program:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
        import tensorflow as tf

        if os.environ["KERAS_BACKEND"] != "tensorflow":
            # TensorFlow then makes batches only; by default it would take all of a GPU's memory.
            tf.config.set_visible_devices([], "GPU")
        if start:
            tf.config.list_logical_devices()  # starts the runtime, which has messages of its own
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit code 2.

    Ctrl-C is one line, too, from then on. `again` is what it says on how to go on.
    """

    again = None

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice on tracing, not on input
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace", line_buffering=True)
        sys.excepthook = self._tell

    def error(self, message):
        fail(message)

    def _tell(self, kind, error, trace):
        """Is called for what nobody caught; after Ctrl-C, Python ends with the code of SIGINT."""
        if issubclass(kind, KeyboardInterrupt):
            more = f"; {self.again}" if self.again else ""
            print(f"error: interrupted{more}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)


def fail(message, code=2, kind=SystemExit):
    """Ends the program with one line on stderr: code 2 for input that cannot be used.

    `kind` is SystemExit or a subclass of it, for callers that go on.
    """
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise kind(code)


def positive(kind):
    """Argument type: a positive number of that kind, an integer below 2³¹."""

    def parse(text):
        value = kind(text)
        if not 0 < value < (2**31 if kind is int else math.inf):
            raise argparse.ArgumentTypeError(f"must be positive and finite, received {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names the type when `kind` refuses the text
    return parse


def non_negative(text):
    """Argument type: a finite number from 0 on."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be >= 0 and finite, received {text}")
    return value


def first_line(error):
    """Kind and first line of an error, for messages of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
