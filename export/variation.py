"""Outputs that hardly vary over the images, on which a comparison says little."""

import dataclasses

import numpy as np

# What differs by less over all images is lost in the absolute tolerance of a comparison: a file
# that gave the same answer to every image would pass. For outputs beyond 1, it is the share of
# their largest value, as it is for the tolerance.
LEAST_SPREAD = 1e-5


@dataclasses.dataclass(frozen=True)
class Steady:
    """An output that hardly varies: its name, its largest absolute value, and its spread.

    The spread is that of the component that varies most over the images.
    """

    output: str
    largest: float
    spread: float

    def __str__(self):
        return f"{self.output} by {self.spread:.1e} (values up to {self.largest:.1e})"


def steady_outputs(outputs: dict, images: np.ndarray) -> tuple[Steady, ...]:
    """Returns the outputs of a model that hardly vary over the images.

    A dead model has them: all zero, or the same for every image. Over images that are all the same,
    outputs cannot vary: then those alone are named whose every value is nearly zero. Lengths of
    poses that vary are not named: a routing that normalises its poses makes all of nearly the same
    length.

    Args:
        outputs: Dict from names to arrays `(n, …)`, the outputs for the images.
        images: Images `(n, …)`.

    Example:

    >>> images = np.array([[0.0], [1.0]])
    >>> [x.output for x in steady_outputs({"a": images, "b": 0 * images}, images)]
    ['b']
    """
    differ = bool(np.any(np.asarray(images) != np.asarray(images)[:1]))
    found = []
    for name, values in outputs.items():
        values = np.asarray(values, dtype="float64")
        if not values.size:
            continue
        largest = float(np.abs(values).max())
        spread = float(np.ptp(values, axis=0).max())
        least = LEAST_SPREAD * max(1.0, largest)
        if (differ and spread <= least) or largest <= LEAST_SPREAD:
            found.append(Steady(name, largest, spread))
    names = {x.output for x in found}
    if "poses" in outputs and "poses" not in names:
        found = [x for x in found if x.output != "class_lengths"]
    return tuple(found)


def warning(steady: tuple[Steady, ...]) -> str:
    """Returns one line that warns of outputs that hardly vary."""
    return (
        f"outputs hardly vary over the images: {', '.join(map(str, steady))}. The model may be "
        "dead, and that the file agrees says little. Check the unit of the images and the weights."
    )
