"""Seconds from `python recipes/digits.py` to the end of its first step, and what they are spent on.

Each run is a process of its own, and one runs at a time: in each round, the recipe as it is, the
recipe of an earlier state, if there is one, and a bare import of TensorFlow and of Keras. A first
round, which fills the caches of the disk, does not count. On a machine that is shared, trust the
processor's seconds.
"""

import json
import os
import pathlib
import random
import shlex
import subprocess
import sys
import tempfile
import time

import numpy as np
import program

from export.command import Parser, fail, positive

ROOT = pathlib.Path(__file__).parents[1]
WORKER = pathlib.Path(__file__).with_name("startup_worker.py")
CLOCKS = ("on the clock", "of the processor")
IMPORTS = ("tensorflow", "keras")
NOW = "now"
TARGET = 0.5  # of the earlier state's seconds
TOTAL = "all, to the end of the first step"


def read_arguments():
    """Returns the command line's arguments."""
    from harness import settings

    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=7, help="rounds that count")
    parser.add_argument(
        "--baseline",
        type=pathlib.Path,
        metavar="FOLDER",
        help="with the files of an earlier commit, such as git archive writes; tables call it by "
        "the folder's name",
    )
    parser.add_argument("--measurements", **settings.MEASUREMENTS.metadata["arguments"])
    program.add_quick(parser)
    args = parser.parse_args()
    recipe = args.baseline and args.baseline / "recipes" / "digits.py"
    if recipe and not recipe.is_file():
        fail(f"--baseline must be a folder with recipes/digits.py. Received: {args.baseline}")
    if recipe and args.baseline.resolve().name == NOW:
        fail(f"--baseline must have another name than {NOW!r}. Received: {args.baseline}")
    return args


def start_recipe(folder: pathlib.Path, words: list[str]) -> dict[str, list[float]]:
    """Returns the seconds of each stage of a recipe's start, by both clocks.

    Args:
        folder: Folder of a state of kcaps.
        words: Further words of the recipe's command line.
    """
    with tempfile.TemporaryDirectory() as output:
        words = [*words, "--output", str(pathlib.Path(output, "run"))]
        start = str(time.time())
        return json.loads(_last_line([str(WORKER), str(folder.resolve()), start, *words]))


def start_import(module: str) -> dict[str, list[float]]:
    """Returns the seconds of a process that imports a module, and does nothing else."""
    start = time.time()
    text = f"import {module}, json, time; print(json.dumps([time.time(), time.process_time()]))"
    now, processor = json.loads(_last_line(["-c", text]))
    return {f"import {module}": [now - start, processor]}


def _last_line(words):
    """Returns the last line that a Python program prints; ends this one where that fails."""
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment
    )
    if result.returncode or not result.stdout:
        lines = result.stderr.strip().splitlines() or ["it printed nothing"]
        fail(f"a process ended with exit code {result.returncode}: {lines[-1]}", code=1)
    return result.stdout.splitlines()[-1]


def measure(rows: dict, repeats: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns the seconds of the stages of each row, arrays of shape `(repeats, 2)`.

    Args:
        rows: Functions without arguments that return the seconds of stages, by name.
        repeats: Rounds that count.
    """
    order, shuffle = list(rows), random.Random(0).shuffle
    found = {name: [] for name in rows}
    for _ in range(repeats + 1):
        shuffle(order)
        for name in order:
            found[name].append(rows[name]())
    return {
        name: {stage: np.array([run[stage] for run in runs[1:]]) for stage in runs[0]}
        for name, runs in found.items()
    }


def with_totals(stages: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the stages of a recipe's start with their sum."""
    return stages | {TOTAL: sum(stages.values())}


def print_stages(states: dict, clock: int, target: float | None) -> None:
    """Prints the table of one clock: medians and quartiles of each state, and shares of its sum.

    Args:
        states: What `with_totals` returned, by the states' names; the first one is `NOW`.
        clock: Index in `CLOCKS`.
        target: Share of the other state's seconds that is required, or None.
    """
    from timing import quartiles, table, verdict

    header, lines = ["stage"], []
    for state in states:
        header += [f"{state} / s", "quartiles", "share / %"]
    header += ["of the other", "required"] if len(states) > 1 else []
    for stage in states[NOW]:
        line, own = [stage], [stages[stage][:, clock] for stages in states.values()]
        for seconds, stages in zip(own, states.values(), strict=True):
            low, median, high = quartiles(seconds)
            share = 100 * np.median(seconds / stages[TOTAL][:, clock])
            line += [f"{median:.3f}", f"{low:.3f} – {high:.3f}", f"{share:.1f}"]
        if len(states) > 1:
            ratio = np.median(own[0] / own[1])
            line += [f"{ratio:.3f}", verdict(ratio, target) if stage == TOTAL else ""]
        lines.append(line)
    table(f"Seconds {CLOCKS[clock]}", header, lines)


def print_imports(imports: dict[str, np.ndarray]) -> None:
    """Prints the table of bare imports."""
    from timing import quartiles, table

    lines = []
    for name, seconds in imports.items():
        cells = [quartiles(seconds[:, clock]) for clock in range(len(CLOCKS))]
        lines.append((name, *(f"{m:.3f} ({low:.3f} – {high:.3f})" for low, m, high in cells)))
    table("Processes that only import", ("process", *(f"s {name}" for name in CLOCKS)), lines)


def measurements_of(states: dict, imports: dict, repeats: int) -> list[dict]:
    """Returns rows of docs/results/startup.csv."""
    from timing import quartiles

    from harness import provenance

    words = ["benchmarks/startup.py", "--repeats", str(repeats)]
    words += ["--baseline", "FOLDER"] if len(states) > 1 else []
    common = provenance.here() | {"command": shlex.join(["python", *words]), "unit": "s"}
    rows = []
    for setting, stages in {**states, "a process of its own": imports}.items():
        for stage, seconds in stages.items():
            for clock, name in enumerate(CLOCKS):
                low, median, high = quartiles(seconds[:, clock])
                row = {"item": "start-up", "method": stage, "setting": setting, "quantity": name}
                values = {"value": f"{median:.3f}", "spread": f"{low:.3f} – {high:.3f}"}
                rows.append(common | row | values)
    return rows + _ratios(states, common)


def _ratios(states, common):
    """Returns the rows of the share of another state's seconds that the stages take now."""
    rows = []
    for other in list(states)[1:]:
        for stage, seconds in states[NOW].items():
            for clock, name in enumerate(CLOCKS):
                value = np.median(seconds[:, clock] / states[other][stage][:, clock])
                row = {"item": "start-up", "method": stage, "setting": f"of {other}"}
                values = {"quantity": name, "value": f"{value:.3f}", "unit": ""}
                note = f"required: {TARGET:.2f} at most" if stage == TOTAL else ""
                rows.append(common | row | values | {"note": note})
    return rows


def main():
    program.set_up(start=False)
    args = read_arguments()
    words = ["--limit", "200"] if args.quick else []
    folders = {NOW: ROOT}
    if args.baseline:
        folders[args.baseline.resolve().name] = args.baseline
    program.print_title("Start-up")
    rows = {
        name: lambda folder=folder: start_recipe(folder, words) for name, folder in folders.items()
    }
    rows |= {name: lambda name=name: start_import(name) for name in IMPORTS}
    found = measure(rows, args.repeats)
    states = {name: with_totals(found[name]) for name in folders}
    imports = {stage: seconds for name in IMPORTS for stage, seconds in found[name].items()}
    for clock in range(len(CLOCKS)):
        print_stages(states, clock, None if args.quick else TARGET)
    print_imports(imports)
    if args.measurements:
        from harness import measurements

        measurements.add(args.measurements, measurements_of(states, imports, args.repeats))


if __name__ == "__main__":
    main()
