"""The set-up, the command line and the last line of every program."""

import argparse
import contextlib
import functools
import gc
import importlib.metadata
import io
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable

_OWN = ("kcaps", "export")
# Names of packages that are not those of their modules.
_PACKAGES = {"PIL": "pillow", "grpc": "grpcio", "sklearn": "scikit-learn"}
# Modules that TensorFlow and Keras import where they are installed, for functions that no program
# calls: model conversion from JAX, wrappers for scikit-learn, pictures of data sets. Their imports
# take as long as that of TensorFlow itself.
_UNUSED = ("IPython", "jax", "matplotlib", "pandas", "scipy", "sklearn")


def set_up(backend: str | None = None, start: bool = True, tensorflow: bool = True) -> None:
    """Prepares this process for a program. Call it in `main`, before Keras is imported.

    From then on, Ctrl-C, a package that is missing and a pipe that nobody reads are told in one
    line. Where Keras runs on TensorFlow, that is imported without its start-up messages, and as if
    packages were not installed that it and Keras use in functions which no program calls. Pictures
    need no screen.

    Args:
        backend: Keras' backend, whatever the environment asks for: a checkpoint does not depend
            on it. Defaults to None, the environment's, or `"tensorflow"` where it names none.
        start: Whether to start TensorFlow's runtime, after which its devices are settled.
            Otherwise, call `start_tensorflow` when they are.
        tensorflow: Whether to import TensorFlow if Keras runs on it. Defaults to True.
    """
    sys.excepthook = explain
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice on tracing, not on input
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("MPLBACKEND", "Agg")
    if backend is not None:
        os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if not tensorflow or os.environ["KERAS_BACKEND"] != "tensorflow":
        return
    if "tensorflow" not in sys.modules:
        with no_messages(), _without(_UNUSED), _uncollected():
            import tensorflow  # noqa: F401
    if start:
        start_tensorflow()


def start_tensorflow(make: Callable | None = None):
    """Starts TensorFlow's runtime without its messages.

    Args:
        make: Function that starts it, such as one that makes a `tf.distribute` strategy. Defaults
            to None: its devices are listed, which starts it.

    Returns:
        What `make` returns.
    """
    import tensorflow as tf

    with no_messages():
        return (make or tf.config.list_logical_devices)()


@contextlib.contextmanager
def no_messages():
    """Sends stderr nowhere, for C++ libraries that speak before any log level applies."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


@contextlib.contextmanager
def _without(modules):
    """Context in which modules cannot be imported, but for those that already are."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None refuses an import, as Python documents it.
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _uncollected():
    """Context of imports, whose many objects no search for garbage goes through, then or later."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit code 2.

    Options are written in full: argparse would take `--data` for `--data-dir`, or for whatever a
    later version calls so. Options that a command line does not use are refused as `refuse` says.
    """

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False)
        self._rules = []

    def refuse(self, options: list, is_unused: Callable | None, reason: str) -> None:
        """Refuses options on command lines that would not use them.

        Args:
            options: Names of options, such as `"--dims"`.
            is_unused: Function of all arguments that is true for such command lines. None for all:
                `--help` does not show the options then.
            reason: Why these do not use the options, to be read after a colon.
        """
        if is_unused is None:
            for option in options:
                self._option_string_actions[option].help = argparse.SUPPRESS
        self._rules.append((options, is_unused or (lambda args: True), reason))

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._in_full(unknown)}")
        given = {word.split("=")[0] for word in words}
        for options, is_unused, reason in self._rules:
            option = next((name for name in options if name in given), None)
            if option and is_unused(found):
                value = getattr(found, option.lstrip("-").replace("-", "_"))
                self.error(left_out(option, value, reason))
        return found

    def _in_full(self, words):
        """Returns a hint for words that begin the names of options, or an empty text."""
        starts = tuple(word.split("=")[0] for word in words if word[:2] == "--" and word[2:])
        names = [
            name
            for action in self._actions
            for name in action.option_strings
            if starts and name.startswith(starts) and action.help is not argparse.SUPPRESS
        ]
        return f". Options are written in full: {', '.join(names)}" if names else ""

    def error(self, message):
        fail(message)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that tells every default but None, which says nothing."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)

    def _format_action(self, action):
        if action.help is None and action.default not in (None, argparse.SUPPRESS):
            action.help = "%(default)s by default"  # argparse tells none where there is no help
        return super()._format_action(action)


def left_out(option: str, value, reason: str) -> str:
    """Returns the error for an option that is given where nothing uses it.

    Args:
        option: Name, such as `"--dims"`.
        value: What was given.
        reason: Why it is not used.
    """
    values = value if isinstance(value, list | tuple) else [] if value is True else [value]
    received = " ".join(map(str, [option, *values]))
    return f"{option} must be left out: {reason}. Received: {received}."


def tell_how_to_resume(text: str | None) -> None:
    """Has Ctrl-C end the program with a line that tells how to go on with what it did."""
    sys.excepthook = functools.partial(explain, how_to_resume=text)


def explain(kind, error, trace, how_to_resume: str | None = None) -> None:
    """Tells Ctrl-C, a closed pipe and a failed import in one line, as a `sys.excepthook`.

    After Ctrl-C, Python ends with the code of SIGINT.

    Args:
        kind, error, trace: The error, as Python gives it.
        how_to_resume: How an interrupted program goes on. Defaults to None: it does not.
    """
    if issubclass(kind, KeyboardInterrupt):
        print(
            "error: interrupted" + (f"; {how_to_resume}" if how_to_resume else ""), file=sys.stderr
        )
    elif issubclass(kind, BrokenPipeError):
        fail_unread()
    elif message := _missing(error):
        fail(message)
    else:
        sys.__excepthook__(kind, error, trace)


def _missing(error):
    """Returns what to do about a package or backend that cannot be imported, or None."""
    backend = os.environ.get("KERAS_BACKEND")
    if isinstance(error, ValueError) and str(error).startswith("Unable to import backend"):
        known = "'tensorflow', 'jax' or 'torch', or unset"
        return f"KERAS_BACKEND must be {known}. Received: {backend!r}"
    if not isinstance(error, ImportError):
        return None
    module = (error.name or _module_on(error.__traceback__)).split(".")[0]
    if not module or module in _OWN or str(error).startswith("cannot import name"):
        return None
    package = _PACKAGES.get(module, module.replace("_", "-"))
    fix = f"python -m pip install {package}"
    if module == backend != "tensorflow":
        return f"KERAS_BACKEND is {module!r}, which cannot be imported: unset it, or {fix}"
    extra = _extra_with(package)
    source = f" (kcaps[{extra}] brings it)" if extra else ""
    return f"{package} is needed and cannot be imported{source}: {fix}"


def _extra_with(package):
    """Returns the first extra of kcaps that brings a package, or an empty text."""
    try:
        lines = importlib.metadata.requires("kcaps") or []
    except importlib.metadata.PackageNotFoundError:  # a clone that was not installed
        return ""
    names = (re.match(rf"{re.escape(package)}\b(?!-).*extra == .(\w+)", line) for line in lines)
    return next((match[1] for match in names if match), "")


def _module_on(trace):
    """Returns the module that the innermost line with an import names, or an empty text."""
    lines = [frame.line or "" for frame in reversed(traceback.extract_tb(trace))]
    found = (re.match(r"(?:import|from)\s+(\w+)", line) for line in lines)
    return next((match[1] for match in found if match), "")


def fail(message, code: int = 2, kind: type[SystemExit] = SystemExit):
    """Ends the program with one line on stderr.

    Args:
        message: An error, or text.
        code: Exit code. Defaults to 2, for input that cannot be used.
        kind: SystemExit or a subclass of it, for callers that go on.
    """
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise kind(code)


def fail_unread(how_to_resume: str | None = None):
    """Ends a program whose output nobody reads any more, as behind `| head -1`.

    Args:
        how_to_resume: How the program goes on. Defaults to None: it does not.
    """
    sys.stdout = None  # or Python complains of it once more at its end
    fail("; ".join(filter(None, ["nobody reads the output any more", how_to_resume])), code=1)


def positive(kind: type) -> Callable:
    """Returns an argument type: a positive number of that kind, an integer below 2³¹."""

    def parse(text):
        value = kind(text)
        if not 0 < value < (2**31 if kind is int else math.inf):
            raise argparse.ArgumentTypeError(f"must be positive and finite, received {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names the type when `kind` refuses the text
    return parse


def non_negative(text: str) -> float:
    """Reads an argument that is a finite number from 0 on."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be >= 0 and finite, received {text}")
    return value


def first_line(error: BaseException) -> str:
    """Returns kind and first line of an error, for messages of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
