"""The tables of the comparison with peers: order, checks, floor, targets."""

import random
import tempfile

import numpy as np
from timing import milliseconds, quartiles, table, verdict

from export.command import fail

BASELINE = "PyTorch, eager, float32"
OURS = "kcaps on TensorFlow, "  # begins the names of the rows that have targets
# How many times as fast as the baseline the rows of kcaps are, at the reference sizes.
TARGETS = {
    ("layer", "float32"): {"dynamic": 12.0, "l1": 80.0, "l2": 80.0},
    ("step", "float32"): dict.fromkeys(("dynamic", "l1, joint", "l2, joint"), 2.6),
    ("step", "mixed_bfloat16"): dict.fromkeys(("dynamic", "l1, joint", "l2, joint"), 4.0),
}
# Largest differences to the first row of a group, of the largest value. Losses after a step have
# more, because PyTorch's Adam adds its epsilon elsewhere.
TOLERANCES = {
    ("layer", "float32"): 1e-4,
    ("step", "float32"): 1e-3,
    ("layer", "mixed_bfloat16"): 0.1,
    ("step", "mixed_bfloat16"): 0.1,
}
PATIENCE = 20.0  # seconds for a row in all, after which it is left out of further repeats
QUICK_CALL = 1.0  # seconds below which a call goes before the one that is timed


def print_table(args, workers, name):
    """Makes the rows of a table in their processes, checks and times them, and prints the table."""
    owners, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for worker in workers:
            answer = worker.ask(table=name, folder=folder)
            rows += answer["rows"]
            owners |= {row["name"]: worker for row in answer["rows"]}
            for left_out, reason in answer["left_out"].items():
                print(f"\n{left_out} is left out: {reason}")
        differences = check(rows, TOLERANCES[name, args.precision])
    told = ", ".join(f"{group} {value:.1e}" for group, value in differences.items())
    print(f"\nThe largest differences in {name}s, of the largest value: {told}.")
    seconds = interleaved(owners, {row["name"]: row["seconds"] for row in rows}, args)
    rates = {key: seconds.pop(key) for key in list(seconds) if key.startswith("matrix product")}
    total = operations(args, name)
    tell_rates(rates, args, total)
    seconds["floor"] = total / (2 * args.product**3) * np.min(list(rates.values()), axis=0)
    print_seconds(args, name, seconds)


def check(rows, tolerance):
    """Returns the largest difference in each group of rows to its first, of the largest value.

    Rows of PyTorch come first, so that those of kcaps are compared with them.

    Args:
        rows: Names, groups and files of the rows.
        tolerance: The largest difference that is rounding.

    Raises:
        SystemExit: if a row differs by more; one line on stderr names it.
    """
    first, found = {}, {}
    for row in rows:
        with np.load(row["file"], allow_pickle=False) as file:
            arrays = [file[key] for key in file]
        expected = first.setdefault(row["group"], arrays)
        for ours, theirs in zip(arrays, expected, strict=True):
            difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
            if not difference <= tolerance:
                fail(f"{row['name']} computes something else: it differs by {difference:.1e}")
            found[row["group"]] = max(found.get(row["group"], 0.0), float(difference))
    return found


def interleaved(owners, expected, args):
    """Returns seconds of each row, with NaN for repeats of which it is left out.

    Every repeat runs the rows in a new order, one at a time.

    Args:
        owners: Processes of the rows, by name.
        expected: Seconds of a call of each, by name.
        args: Arguments of the program.
    """
    seconds = {name: np.full(args.repeats, np.nan) for name in owners}
    order, shuffle = list(owners), random.Random(0).shuffle
    for repeat in range(args.repeats):
        shuffle(order)
        for name in order:
            if repeat and repeat >= PATIENCE / (args.calls * expected[name]):
                continue
            options = {"calls": args.calls, "warm_up": expected[name] < QUICK_CALL}
            answer = owners[name].ask(row=name, options=options)
            seconds[name][repeat] = answer["seconds"]
    return seconds


def operations(args, name):
    """Returns the floating-point operations of a layer or step, without those of routing.

    Each product is counted once forward and once for the gradient of either factor; the image
    needs none.
    """
    votes = 2 * args.batch_size * args.num_inputs * 8 * 10 * 16
    if name == "layer":
        return 3 * votes
    first = 2 * args.batch_size * 20**2 * 9**2 * args.filters
    second = 2 * args.batch_size * 6**2 * 9**2 * args.filters * args.types * 8
    return 2 * first + 3 * second + 3 * votes


def tell_rates(rates, args, total):
    """Prints what the floor is made of."""
    told = ", ".join(
        f"{2 * args.product**3 / np.median(values) / 1e9:.4g} ({name.split(' on ')[1]})"
        for name, values in rates.items()
    )
    print(
        f"\nThe floor: {total / 1e9:.4g} GFLOP at the rate of a product of {args.product} × "
        f"{args.product} matrices, in GFLOP/s {told}; the fastest counts."
    )


def print_seconds(args, name, seconds):
    """Prints the table, and records its rows."""
    targets = TARGETS.get((name, args.precision), {}) if args.targets else {}
    peers = [row for row in seconds if "kcaps" not in row and row != "floor"]
    fastest = min(peers, key=lambda row: np.nanmedian(seconds[row]))
    lines = []
    for row in sorted(seconds, key=lambda row: (row == "floor", "kcaps" in row)):
        values = seconds[row]
        ratios = seconds[BASELINE] / values, values / seconds[fastest], values / seconds["floor"]
        times, of_peer, of_floor = map(np.nanmedian, ratios)
        timed = values[~np.isnan(values)]
        note = "" if len(timed) == args.repeats else f"{len(timed)} of {args.repeats} repeats"
        args.records.add(
            name,
            row,
            quartiles(timed),
            times_pytorch=f"{times:.4f}",
            of_fastest_peer=f"{of_peer:.4f}",
            of_floor=f"{of_floor:.4f}",
            note=note,
        )
        target = targets.get(row.removeprefix(OURS)) if row.startswith(OURS) else None
        of_pytorch = f"{times:.2f}", at_least(times, target)
        others = f"{of_peer:.3f}", verdict(of_peer, target and 1.0), f"{of_floor:.2f}"
        label = f"{row} ({note})" if note else row
        lines.append((label, *milliseconds(timed), *of_pytorch, *others))
    header = ("times PyTorch's speed", "target", "of the fastest peer", "target", "of the floor")
    title = f"{TITLES[name]}: batch {args.batch_size}, {args.num_inputs} × 8 → 10 × 16"
    table(title, ("row", "ms", "quartiles", *header), lines)


TITLES = {"layer": "Layer forward and backward", "step": "Training step of the whole network"}


def at_least(value, target):
    """Returns the cell of a lower bound, which is empty where there is none."""
    return f"≥ {target:g}: {'met' if value >= target else 'MISSED'}" if target else ""
