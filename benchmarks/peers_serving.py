"""What the process of a backend does: it makes rows, checks what they give, and runs them."""

import gc
import importlib
import json
import os
import pathlib
import sys
import time
import traceback

import numpy as np
import program

from export.command import first_line

TRIES = 2  # calls of a row before it is timed, of which the first one compiles


def serve(args):
    """Answers requests until there are none."""
    # Libraries print where they like: only answers go where the other process reads them.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    program.set_up(args.worker)
    import keras
    from device import gpu_name, versions

    keras.config.set_dtype_policy(args.precision)
    print(json.dumps({"versions": versions(), "gpu": gpu_name()}), file=answers)
    rows = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "table" in request:
                rows.clear()
                gc.collect()
                answer = make_rows(args, rows, request["table"], pathlib.Path(request["folder"]))
            else:
                answer = {"seconds": measure(rows[request["row"]].call, **request["options"])}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": first_line(error)}
        print(json.dumps(answer), file=answers)


def make_rows(args, rows, table, folder):
    """Makes the rows of a table, calls each, and saves what they give.

    Args:
        args: Arguments of the program.
        rows: Dict that receives the rows, by name.
        table: `"layer"` or `"step"`.
        folder: Folder of the arrays, a file for each row.

    Returns:
        What the other process is told: rows with their files, and why some are left out.
    """
    import peers_rows

    peers = importlib.import_module(f"peers_{args.worker}")
    found = getattr(peers, f"{table}s")(args) | getattr(peers_rows, f"kcaps_{table}s")(args)
    found |= peers_rows.product(args)
    made, left_out = [], {}
    for index, (name, row) in enumerate(found.items()):
        try:
            results, seconds = first_calls(row.call)
        except RuntimeError as error:
            if not row.may_fail:
                raise RuntimeError(f"{name}: {error}") from error
            left_out[name] = first_line(error)
            continue
        file = folder / f"{args.worker}-{index}.npz"
        np.savez(file, *row.arrays(results))
        made.append({"name": name, "group": row.group, "file": str(file), "seconds": seconds})
        rows[name] = row
    return {"rows": made, "left_out": left_out}


def first_calls(call):
    """Returns the results of the first calls, and the seconds of the last one."""
    from device import wait

    results = []
    for _ in range(TRIES):
        start = time.perf_counter()
        results.append(call())
        wait(results[-1])
    return results, time.perf_counter() - start


def measure(call, calls, warm_up):
    """Returns the seconds of a call, the mean of several.

    Args:
        call: Function without arguments.
        calls: Number of calls.
        warm_up: Whether a call goes before, because another process has had the caches.
    """
    from device import wait

    if warm_up:
        wait(call())
    start = time.perf_counter()
    for _ in range(calls):
        result = call()
    wait(result)
    return (time.perf_counter() - start) / calls
