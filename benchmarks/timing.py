"""Interleaved timing, and the cells and tables that show it."""

import concurrent.futures
import random
import time

import numpy as np


def interleaved(rows, repeats, calls=1, threads=1, clock=time.perf_counter):
    """Returns seconds of each function in the dict `rows`: a dict of arrays of `repeats` values.

    Args:
        rows: Functions without arguments, by name.
        repeats: Values of each function.
        calls: Calls of a value, which the device may queue. On a GPU a single one would time what
            Python does to start it.
        threads: Threads that make the first calls, which compile.
        clock: Function that returns seconds.
    """
    from device import wait  # Tables alone need no backend.

    if threads > 1:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            wait(list(pool.map(lambda function: function(), rows.values())))
    for function in rows.values():
        for _ in range(2):  # compiles
            wait(function())
    seconds = {name: np.empty(repeats) for name in rows}
    order, shuffle = list(rows), random.Random(0).shuffle
    for repeat in range(repeats):
        shuffle(order)
        for name in order:
            start = clock()
            for _ in range(calls):
                result = rows[name]()
            wait(result)
            seconds[name][repeat] = (clock() - start) / calls
    return seconds


def clocks():
    """Returns seconds of the clock on the wall, and of the processor in this process."""
    return np.array([time.perf_counter(), time.process_time()])


def quartiles(seconds):
    """Returns the lower quartile, the median and the upper quartile."""
    return np.quantile(seconds, (0.25, 0.5, 0.75))


def milliseconds(seconds):
    """Returns two cells: the median and the quartiles."""
    low, median, high = 1e3 * quartiles(seconds)
    return f"{median:.4g}", f"{low:.4g} – {high:.4g}"


def verdict(value, target, digits=2):
    """Returns the cell of an upper bound, which is empty where there is none."""
    return f"≤ {target:.{digits}f}: {'met' if value <= target else 'MISSED'}" if target else ""


def table(title, header, rows):
    """Prints a table in Markdown."""
    print(f"\n## {title}\n")
    for cells in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(cells)} |", flush=True)
