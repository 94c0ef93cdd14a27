"""Studies what updates or initialisations do to capsule regression: table and picture."""

import keras
import numpy as np
from matplotlib import pyplot as plt

from export.command import Parser, fail, positive
from harness import plots, run_folder, study, training
from kcaps.regression import CapsuleRegression, SubspaceProjection
from pictures_of import data

MOMENTUM, THRESHOLD = 0.9, 0.8
VARIANTS = {
    "EM": (0.0, 0.0),
    "thresholded": (0.0, THRESHOLD),
    "momentum": (MOMENTUM, 0.0),
    "both": (MOMENTUM, THRESHOLD),
}
TYPES = {"variant": str, "initialisation": str, "iteration": int, "draw": int}  # others are floats


def train(momentum, threshold, initializer="subspace"):
    """Losses and errors on the training images: of the first weights, and of each iteration's."""
    model = CapsuleRegression(images.num_classes, args.capsule_dim, initializer=initializer)
    model.compile(momentum=momentum, threshold=threshold)
    # An epoch measures the weights before its step: one more measures those after the last.
    history = model.fit(features, labels, epochs=args.epochs + 1, verbose=0).history
    return history["loss"], history["error"]


def run_variant(variant):
    losses, errors = train(*VARIANTS[variant])
    return [
        {"variant": variant, "iteration": n, "loss": loss, "error": error}
        for n, (loss, error) in enumerate(zip(losses, errors, strict=True))
    ]


def run_initialisation(initialisation, level, draw):
    initializer = initialisation
    if initialisation == "normal":
        initializer = keras.initializers.RandomNormal(stddev=level, seed=draw)
    _, errors = train(MOMENTUM, THRESHOLD, initializer)
    return [
        {
            "initialisation": initialisation,
            "level": level,
            "draw": draw,
            "lowest_error": min(errors),
        }
    ]


def complete(path, cells, run):
    """Rows of all cells; those that are in the file already are not run again."""
    rows = study.read_rows(path, TYPES)
    for number, cell in enumerate(cells, 1):
        if any(cell.items() <= row.items() for row in rows):
            continue
        print(f"{number} of {len(cells)}: {' '.join(map(str, cell.values()))}", flush=True)
        try:
            rows += run(**cell)
        except ValueError as error:  # of data that cannot be fitted, such as too few images
            fail(error)
        run_folder.write_csv(path, rows)
    return rows


def study_updates():
    """Likelihood and training error over the iterations of four updates (Figures 6 and 7)."""
    cells = [{"variant": variant} for variant in VARIANTS]
    rows = complete(args.output / "updates.csv", cells, run_variant)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(f"Updates, d = {args.capsule_dim}")
    last = []
    for variant, (momentum, threshold) in VARIANTS.items():
        own = [row for row in rows if row["variant"] == variant]
        errors = [100 * row["error"] for row in own]
        last.append(f"{variant} {errors[-1]:.2f} %")
        style = {"color": "C1" if momentum else "C0", "linestyle": "--" if threshold else "-"}
        label = f"{variant}: γ = {momentum:g}, ν = {threshold:g}"
        iterations = [row["iteration"] for row in own]
        # The first weights, of iteration 0, have no place on a logarithmic axis.
        axes[0].plot(iterations[1:], [-row["loss"] for row in own[1:]], label=label, **style)
        axes[1].plot(iterations[1:], errors[1:], label=label, **style)
    axes[0].set(ylabel="log-likelihood of an example")
    axes[1].set(ylabel="training error / %", ylim=(0, None))
    for axis in axes:
        axis.set(xlabel="iteration", xscale="log")
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plots.save(figure, images, args.output / "updates.png")
    return f"training error after {args.epochs} iterations: {', '.join(last)}"


def study_initialisations():
    """Lowest training errors from subspace and from random initialisations (Figure 8)."""
    cells = [{"initialisation": "subspace", "level": 0.0, "draw": 0}]
    cells += [
        {"initialisation": "normal", "level": level, "draw": draw}
        for level in sorted(set(args.levels))
        for draw in range(args.draws)
    ]
    rows = complete(args.output / "initialisations.csv", cells, run_initialisation)
    errors = {}  # of each level
    for row in rows:
        errors.setdefault(row["level"], []).append(100 * row["lowest_error"])
    (subspace,) = errors.pop(0.0)
    levels = sorted(errors)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    figure.suptitle(f"Initialisations, d = {args.capsule_dim}")
    axis.axhline(subspace, color="C1", label="subspace")
    for place, level in enumerate(levels):
        spread = place + np.linspace(-0.2, 0.2, len(errors[level]))
        label = None if place else "random"
        axis.plot(spread, errors[level], ".", color="C0", label=label)
        label = None if place else "random, median"
        axis.hlines(np.median(errors[level]), place - 0.3, place + 0.3, color="C0", label=label)
    axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    axis.set(
        xlabel="standard deviation of the random weights",
        ylabel=f"lowest training error in {args.epochs} iterations / %",
    )
    axis.grid(alpha=0.3, axis="y")
    axis.legend()
    plots.save(figure, images, args.output / "initialisations.png")
    medians = [f"random {level:g}: {np.median(errors[level]):.2f} %" for level in levels]
    return f"median of lowest training errors: subspace {subspace:.2f} %, {', '.join(medians)}"


STUDIES = {"updates": study_updates, "initialisations": study_initialisations}

parser = Parser(__doc__)
parser.add_argument("--study", choices=list(STUDIES), required=True, help="what is compared")
parser.add_argument(
    "--data", choices=("digits", "mnist", "fashion_mnist"), default="digits", help="images"
)
parser.add_argument("--capsule-dim", type=positive(int), default=4, help="components of a capsule")
parser.add_argument("--epochs", type=positive(int), default=1000, help="iterations of each model")
parser.add_argument(
    "--levels",
    type=positive(float),
    nargs="+",
    default=(0.001, 0.01, 0.1, 1.0),
    help="standard deviations of random weights",
)
parser.add_argument("--draws", type=positive(int), default=20, help="models of each level")
parser.refuse(
    ["--levels", "--draws"],
    lambda args: args.study != "initialisations",
    "only --study initialisations draws weights at random",
)
study.add_arguments(parser, "studies/")
args = parser.parse_args()
training.check_backend(("tensorflow", "jax", "torch"))
images = data.load(args.data, args.data_dir, args.limit, args.synthetic, as_published=True)
names = ("data", "synthetic", "limit", "capsule_dim", "epochs")
arguments = {name: getattr(args, name) for name in names}
study.open_folder(args.output, args.study, arguments, STUDIES)

# As published: all training images, with those of validation.
pixels, labels = map(np.concatenate, zip(images.train, images.validation, strict=True))
pixels = pixels / np.float32(255)
projection = SubspaceProjection(images.num_components)
projection.adapt(pixels)
features = keras.ops.convert_to_numpy(projection(pixels))
print(f"{args.study}: {images.title}, {len(labels)} training images", flush=True)
result = STUDIES[args.study]()
print(f"{images.title}, {result}; {args.output / args.study}.png written")
