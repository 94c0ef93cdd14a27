"""Shows what `fit` does before its first epoch, as Keras shows the epochs."""

import contextlib
import itertools
import math

import keras


class Progress:
    """Prints lines and a progress bar, or nothing.

    Args:
        verbose: As of `keras.Model.fit`: 0 for nothing, 2 for lines only, `"auto"` and other
            values for lines and a bar.
    """

    def __init__(self, verbose):
        self.verbose = 1 if verbose == "auto" else int(verbose or 0)

    def line(self, text: str | None) -> None:
        """Prints a line; None is no line."""
        if self.verbose and text:
            print(text, flush=True)

    @contextlib.contextmanager
    def bar(self, text, batches=None):
        """Prints a line, and shows a bar while the context lasts.

        Args:
            text: The line.
            batches: Number of batches, or None where it is not known.

        Yields:
            A function to call with each batch, or None.
        """
        self.line(text)
        if self.verbose != 1:
            yield None
            return
        bar, seen = keras.utils.Progbar(batches, unit_name="batch"), itertools.count(1)
        last = 0

        def observe(batch):
            nonlocal last
            last = next(seen)
            bar.update(last)

        yield observe
        if last != batches:  # which ends the line
            bar.update(last, finalize=True)


def number_of_batches(data, batch_size: int, steps: int | None = None) -> int | None:
    """Returns how many batches data come in, or None where that is not known.

    Args:
        data: Array, dataset or other iterable of batches.
        batch_size: Examples of an array that are taken at once.
        steps: At most so many batches, or None.
    """
    if hasattr(data, "shape"):
        return math.ceil(len(data) / batch_size)
    try:
        count = len(data)
    except TypeError:  # of iterators, and of datasets whose end is not known
        return steps
    return count if steps is None else min(count, steps)
