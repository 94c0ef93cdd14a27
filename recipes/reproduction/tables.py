"""The tables and figures that can be reproduced: their cells, and what is published."""

import dataclasses
from collections.abc import Callable

from kcaps.routing import ROUTINGS
from reproduction import reports
from reproduction.cells import Cell
from reproduction.coefficients import VARIANTS
from reproduction.deep_methods import DEEP, DESIGNS, HEADS
from reproduction.methods import NO_DECODER

ROUTED = ("dynamic", "l2", "l1")
ALL_ROUTINGS = tuple(f"{name}{NO_DECODER}" for name in ROUTINGS)

# Lowest test errors in per cent that anybody published, by task: docs/reproduction.md tells whose.
BEST_KNOWN = {
    "mnist": "0.13",
    "distorted_mnist": "0.13",
    "moved_mnist": "0.13",
    "fashion_mnist": "3.09",
    "moved_fashion_mnist": "3.09",
    "cifar10": "0.5",
    "varied_cifar10": "0.5",
    "multi_mnist": "5.2",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Methods on tasks.

    Args:
        title: What is compared.
        methods: Methods of each task, by its name.
        published: Errors in per cent, as printed, by task and method.
        best_known: `BEST_KNOWN`, or nothing for images that are not the published ones.
        report: Function of the settings, one of `reports`, that returns the rows of the table.
    """

    title: str
    methods: dict[str, tuple[str, ...]]
    published: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    best_known: dict[str, str] = dataclasses.field(default_factory=lambda: BEST_KNOWN)
    report: Callable[..., list[dict]] = reports.errors

    def cells(self, seeds: int) -> list[Cell]:
        """Returns the cells of so many seeds, all seeds of a method before the next."""
        return [
            Cell(task, method, seed)
            for task, methods in self.methods.items()
            for method in methods
            for seed in range(seeds)
        ]


TABLE2 = ("dynamic", "l2", "l1", "l2_fc", "l1_fc")
ON_CIFAR10 = ("dynamic_fc", "l2_fc", "l1_fc")

TABLES = {
    "table2": Table(
        "Test errors of routings (Yang et al., 2021, Table II)",
        {"mnist": TABLE2, "fashion_mnist": TABLE2, "cifar10": ON_CIFAR10},
        {
            ("mnist", "dynamic"): "0.34",
            ("mnist", "l2"): "0.35",
            ("mnist", "l1"): "0.32",
            ("mnist", "l2_fc"): "0.35",
            ("mnist", "l1_fc"): "0.44",
            ("fashion_mnist", "dynamic"): "7.21",
            ("fashion_mnist", "l2"): "7.01",
            ("fashion_mnist", "l1"): "6.76",
            ("fashion_mnist", "l2_fc"): "6.77",
            ("fashion_mnist", "l1_fc"): "6.75",
            ("cifar10", "dynamic_fc"): "15.3",
            ("cifar10", "l2_fc"): "14.52",
            ("cifar10", "l1_fc"): "14.04",
        },
    ),
    "figure2": Table(
        "Images rebuilt from features trained without a decoder (Yang et al., Figure 2)",
        {"fashion_mnist": ("dynamic", "l2_fc")},
        report=reports.decoders,
    ),
    "figure3": Table(
        "Validation error after each pass (Yang et al., Figure 3)",
        {"mnist": ROUTED, "fashion_mnist": ROUTED, "cifar10": ON_CIFAR10, "multi_mnist": ROUTED},
        report=reports.error_curves,
    ),
    "figure4": Table(
        "Time of 100 steps (Yang et al., Figure 4)",
        {"mnist": (*ROUTED, *ALL_ROUTINGS)},
        report=reports.step_times,
    ),
    "multi_mnist": Table(
        "Two overlapping digits, both to be found (Yang et al., section V)",
        {"multi_mnist": ROUTED},
        {("multi_mnist", "dynamic"): "7.47", ("multi_mnist", "l2"): "7.54"},
        report=reports.overlapping,
    ),
    "efficient_capsnet": Table(
        "Efficient-CapsNet (Mazzia et al., 2021), trained on distorted digits and moved clothes",
        {"distorted_mnist": ("efficient_capsnet",), "moved_fashion_mnist": ("efficient_capsnet",)},
        {("distorted_mnist", "efficient_capsnet"): "0.26, best 0.16"},
    ),
    "moved": Table(
        "Digits moved by up to two pixels in training, and clothes mirrored, too",
        {"moved_mnist": ROUTED, "moved_fashion_mnist": ROUTED},
        {("moved_mnist", "dynamic"): "0.25 (Sabour et al., 2017)"},
    ),
    "routings": Table(
        "All routings on one network, without a decoder",
        {"fashion_mnist": ALL_ROUTINGS},
    ),
    "coefficients": Table(
        "What the coefficients of l1 and l2 do, by γ and λ: fixed ones are those of uniform",
        {
            "fashion_mnist": tuple(
                f"{name}{NO_DECODER}" for name in ("uniform", "dynamic", *VARIANTS)
            )
        },
        report=reports.coefficients,
    ),
    "control": Table(
        "The deep network with dense heads, and under capsules with each routing",
        {"varied_cifar10": tuple(f"{DEEP}{head}" for head in (*HEADS, *ROUTINGS))},
        report=reports.control,
    ),
    "design": Table(
        "The deep network with other losses, capsules and activations",
        {"varied_cifar10": tuple(f"{DEEP}{name}" for name in ("uniform", *DESIGNS))},
    ),
    "affine": Table(
        "Affine maps, noise and attacks, after training on digits in random places",
        {"placed_mnist": ("cnn", "dynamic", "l2", "efficient_capsnet")},
        report=reports.robustness,
    ),
    "time_to_99": Table(
        "Time to 99 % on MNIST, from a cold start",
        {"mnist": ("efficient_capsnet", *ROUTED)},
        report=reports.times_to_goal,
    ),
    "time_to_94": Table(
        "Time to 94 % on CIFAR-10, from a cold start",
        {"varied_cifar10": (f"{DEEP}uniform",)},
        report=reports.times_to_goal,
    ),
}
