"""Points of the plane in four classes, made from a seed."""

import numpy as np

NUM_CLASSES = 4
SIZE = 800  # of the training set and of the test set
SQUARES = 8  # along a side of the checkerboard
TURNS = 1.5  # of each arm of the spiral
UNITS, BATCH_SIZE = 200, 50  # of the networks that learn them


def checkerboard(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns points in 64 squares, whose classes follow each other in each row and column."""
    points = rng.uniform(-1, 1, size=(SIZE, 2))
    squares = np.minimum(SQUARES * (points + 1) / 2, SQUARES - 1).astype(int)
    return points, squares.sum(1) % NUM_CLASSES


def spiral(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns points of four arms: the two spirals, with two more between them."""
    labels = rng.integers(NUM_CLASSES, size=SIZE)
    radius = np.sqrt(rng.uniform(size=SIZE))  # as many points in each area
    angle = 2 * np.pi * (TURNS * radius + labels / NUM_CLASSES)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), labels


def random(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels that nothing tells: a network that fits them has learned them by heart."""
    return rng.uniform(-1, 1, size=(SIZE, 2)), rng.integers(NUM_CLASSES, size=SIZE)


TOYS = {"checkerboard": checkerboard, "spiral": spiral, "random": random}


def make(name: str, seed: int) -> tuple[tuple, tuple]:
    """Returns the training set and the test set of a toy: points `(n, 2)` in [-1, 1]², labels."""
    rng = np.random.default_rng([seed, list(TOYS).index(name)])
    (x, y), (test_x, test_y) = TOYS[name](rng), TOYS[name](rng)
    return (x.astype("float32"), y), (test_x.astype("float32"), test_y)
