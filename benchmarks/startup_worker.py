"""A run of recipes/digits.py in this process, which ends after two steps and tells of its stages.

`startup.py` starts it with the folder of a state of kcaps, the time of the start, and further words
of the recipe's command line. It watches public functions and Keras' callbacks, which all states of
kcaps have. The last line that it prints is JSON.
"""

import contextlib
import functools
import importlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

RECIPE = "digits.py"
# What the start is made of, in order.
STAGES = (
    "Python",
    "TensorFlow and Keras",
    "modules of kcaps and of the recipe",
    "command line, TensorFlow's runtime",
    "data",
    "model, built and compiled",
    "folder, callbacks, first batches",
    "first step: traced by Python",
    "first step: optimised and compiled",
    "first step: computed",
)


class Stages:
    """Seconds of the stages, each on the clock and of the processor.

    Args:
        start: `time.time()` of the start of this process.
    """

    def __init__(self, start: float):
        self.seconds = {}
        self._before = start, 0.0

    def end(self, name: str) -> None:
        """Notes that a stage ends now, with which the next one begins."""
        now = time.time(), time.process_time()
        self.seconds[name] = [
            after - before for after, before in zip(now, self._before, strict=True)
        ]
        self._before = now

    def ending(self, name: str, function: Callable, before: str | None = None) -> Callable:
        """Returns a function with whose end a stage ends, and with whose start one before it."""

        @functools.wraps(function)
        def watched(*args, **options):
            if before is not None:
                self.end(before)
            result = function(*args, **options)
            self.end(name)
            return result

        return watched

    @contextlib.contextmanager
    def adding(self, name: str) -> Iterator[None]:
        """Adds the time of a context to that of a stage, whose other parts came before."""
        start = time.time(), time.process_time()
        yield
        now = time.time(), time.process_time()
        parts = zip(self.seconds.setdefault(name, [0.0, 0.0]), now, start, strict=True)
        self.seconds[name] = [total + after - before for total, after, before in parts]

    def split_first_step(self, second: list[float]) -> None:
        """Takes from the first step its tracing, and what the second one took: its computation."""
        traced, compiled, computed = STAGES[-3:]
        whole = self.seconds[compiled]
        rest = [a - b - c for a, b, c in zip(whole, self.seconds[traced], second, strict=True)]
        self.seconds |= {compiled: rest, computed: second}


def watch(stages: Stages) -> None:
    """Has the recipe, which is yet to be run, tell the stages when it was where."""
    from export import command

    def watched(*args, **options):
        set_up(*args, **options)
        stages.end(STAGES[1])
        _watch_modules(stages)

    set_up, command.set_up = command.set_up, watched


def _watch_modules(stages):
    """Watches the modules that the recipe imports once TensorFlow is there."""
    from harness import training
    from harness.network_settings import NetworkSettings
    from kcaps.models import CapsNet
    from networks import capsnets  # noqa: F401  The recipe imports it next.

    training.begin = stages.ending(STAGES[3], training.begin, before=STAGES[2])
    NetworkSettings.load_images = stages.ending(STAGES[4], NetworkSettings.load_images)
    NetworkSettings.compile = stages.ending(STAGES[5], NetworkSettings.compile)
    fit, train_step = CapsNet.fit, CapsNet.train_step

    def watched_fit(model, *args, callbacks=(), **options):
        return fit(model, *args, callbacks=[*callbacks, _steps(stages)], **options)

    def watched_step(model, *arguments):
        with stages.adding(STAGES[7]):  # TensorFlow calls it to trace it, once or twice.
            return train_step(model, *arguments)

    CapsNet.fit, CapsNet.train_step = watched_fit, watched_step


def _steps(stages):
    """Returns the callback that watches the first two steps, after which the program ends."""
    import keras

    def begin(step, logs):
        if step == 0:
            stages.end(STAGES[6])

    def end(step, logs):
        stages.end(STAGES[8] if step == 0 else STAGES[9])
        if step == 1:
            stages.split_first_step(stages.seconds[STAGES[9]])
            print(json.dumps(stages.seconds), flush=True)
            raise SystemExit

    return keras.callbacks.LambdaCallback(on_train_batch_begin=begin, on_train_batch_end=end)


def run(folder: str, start: str, *words: str) -> None:
    """Runs the recipe of the kcaps in a folder, and prints the stages.

    Args:
        folder: A state of kcaps.
        start: Seconds of `time.time()` at which the process was started, as text.
        *words: Further words of the recipe's command line.
    """
    stages = Stages(float(start))
    stages.end(STAGES[0])
    recipes = pathlib.Path(folder, "recipes")
    sys.path[:1] = [str(recipes), folder]
    sys.argv = [str(recipes / RECIPE), *words]
    watch(stages)
    importlib.import_module(pathlib.Path(RECIPE).stem).main()


if __name__ == "__main__":
    run(*sys.argv[1:])
