"""Compares the twelve classification losses: speed, accuracy, robustness (Janocha and Czarnecki).

Networks that differ in their losses only are trained side by side. --preset paper has the paper's
iterations and learning rate (0.00003), and needs hours. --preset quick has a twentieth of the
iterations for the toys, a fiftieth for images and a fifth for linear networks, each with a learning
rate that is larger in proportion; for MNIST it has 256 instead of 512 units, and 0, 1, 3 and 5
hidden layers, and those with hidden layers meet changed labels on 1,200 images at a fifth of that
rate: log loss then learns such labels by heart. For CIFAR-10 it has half of the filters and 1,000
iterations at 0.001. Results are in --output: curves.csv,
input_noise.csv, table.csv, table.md, findings.md and the figures.
"""

import argparse
import itertools
import time

from export.command import Parser, fail, positive
from harness import run_folder, study, training
from kcaps.losses import CLASSIFICATION_LOSSES
from losses import cells as loss_cells
from losses import findings as loss_findings
from losses import pictures as loss_pictures
from losses import toys

GROUPS = {"toy": tuple(toys.TOYS), "all": (*toys.TOYS, *loss_cells.IMAGES)}
TYPES = {"data": str, "loss": str, "depth": int, "iteration": int}  # others are floats


def share_of(text):
    """Argument type: a number above 0, and at most 1."""
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, received {text}")
    return value


def studied(args):
    """Names of the data, each once."""
    groups = (GROUPS.get(study, (study,)) for study in args.study)
    return list(dict.fromkeys(itertools.chain.from_iterable(groups)))


def add_arguments(parser):
    """Adds what is studied, and refuses what the data of a command line do not use."""
    parser.add_argument(
        "--study",
        choices=(*toys.TOYS, *loss_cells.IMAGES, *GROUPS),
        nargs="+",
        default=["toy"],
        help="data",
    )
    parser.add_argument(
        "--preset",
        choices=list(loss_cells.PRESETS),
        default="quick",
        help="iterations, learning rates and sizes, as above",
    )
    losses = list(CLASSIFICATION_LOSSES)
    parser.add_argument(
        "--losses", choices=losses, nargs="+", default=losses, help="that are compared"
    )
    parser.add_argument(
        "--depths",
        type=int,
        choices=range(6),
        nargs="+",
        help="numbers of hidden layers; by default 0 to 5, and 0, 1, 3, 5 of the quick MNIST",
    )
    parser.add_argument(
        "--label-noise",
        type=share_of,
        nargs="*",
        help="shares of MNIST's training labels that are changed, besides none",
    )
    parser.add_argument(
        "--iterations", type=positive(int), help="instead of the preset's, the rate in proportion"
    )
    parser.add_argument(
        "--learning-rate", type=positive(float), help="instead of the one in proportion"
    )
    parser.add_argument("--units", type=positive(int), help="of MNIST's hidden layers")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    study.add_arguments(parser, "studies/losses")


def refuse_unused(parser):
    """Refuses options that the data of a command line do not use."""

    def has_no_mnist(args):
        return "mnist" not in studied(args)

    parser.refuse(["--label-noise", "--units"], has_no_mnist, "only --study mnist uses it")
    parser.refuse(
        ["--units"],
        lambda args: args.depths and not any(args.depths),
        "no network has hidden layers",
    )
    parser.refuse(
        ["--depths"],
        lambda args: studied(args) == ["cifar10"],
        "the network of --study cifar10 has one depth",
    )
    parser.refuse(
        ["--data-dir", "--limit", "--synthetic"],
        lambda args: not set(studied(args)) & set(loss_cells.IMAGES),
        "toys are points and no images",
    )


def cells():
    """What the networks of a stack have in common: data, depth, label noise, losses."""
    preset = loss_cells.PRESETS[args.preset]
    names = studied(args)
    losses = tuple(args.losses)
    for depth in args.depths or range(6):
        yield from ((name, depth, 0.0, losses) for name in names if name in toys.TOYS)
    if "mnist" in names:
        for depth in args.depths or preset["depths"]:
            levels = preset["label_noise"] if args.label_noise is None else args.label_noise
            yield from (("mnist", depth, share, losses) for share in (0.0, *levels))
    if "cifar10" in names:
        yield from (("cifar10", loss_cells.CONVNET_DEPTH, 0.0, (loss,)) for loss in losses)


def complete():
    """Rows of all cells; those that are in the files already are not run again."""
    curves, noise = (
        study.read_rows(args.output / name, TYPES) for name in ("curves.csv", "input_noise.csv")
    )
    wanted = list(cells())
    for number, cell in enumerate(wanted, 1):
        if any(belongs(row, cell) for row in curves):
            continue
        name, depth, share, losses = cell
        about = losses[0] if name == "cifar10" else f"depth {depth}"
        about += f", {100 * share:g} % of labels changed" * bool(share)
        started = time.perf_counter()
        more_curves, more_noise = loss_cells.run(cell, args)
        # A cell is finished when it is in curves.csv, which is therefore written last.
        noise = [row for row in noise if not belongs(row, cell)] + more_noise
        curves += more_curves
        if noise:
            run_folder.write_csv(args.output / "input_noise.csv", noise)
        run_folder.write_csv(args.output / "curves.csv", curves)
        seconds = time.perf_counter() - started
        title = loss_cells.load(name, args).title
        print(f"{number} of {len(wanted)}: {title}, {about}: {seconds:.0f} s", flush=True)
    return curves, noise


def belongs(row, cell):
    name, depth, share, losses = cell
    key = (row["data"], row["depth"], row["label_noise"])
    return key == (name, depth, share) and row["loss"] in losses


parser = Parser(__doc__)
add_arguments(parser)
refuse_unused(parser)
args = parser.parse_args()
training.check_backend()
if args.seed < 0 or args.seed >= 2**31 - 10:
    fail(f"--seed must be from 0 to {2**31 - 11}, received {args.seed}")
args.losses = [loss for loss in CLASSIFICATION_LOSSES if loss in args.losses]
names = ("preset", "losses", "seed", "iterations", "learning_rate", "units", "limit", "synthetic")
made = study.open_folder(args.output, "study", {name: getattr(args, name) for name in names})
started = time.perf_counter()
with study.work_in(args.output, "study", made):
    curves, noise = complete()
names = dict.fromkeys(row["data"] for row in curves)
titles = {name: loss_cells.load(name, args).title for name in names}
table = loss_findings.table(curves)
run_folder.write_csv(args.output / "table.csv", table)
findings = loss_findings.findings(table, curves, noise)
loss_findings.write_markdown(args.output, table, findings, titles)
for name, title in titles.items():
    loss_pictures.draw(name, title, curves, noise, table, args.output)
reproduced = sum(finding["verdict"] == "reproduced" for finding in findings)
measured = sum(finding["verdict"] != "not measured" for finding in findings)
print(
    f"{', '.join(titles.values())}: {reproduced} of {measured} findings reproduced in "
    f"{time.perf_counter() - started:.0f} s; {args.output / 'findings.md'} written"
)
