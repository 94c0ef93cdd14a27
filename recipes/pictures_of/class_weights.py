"""Weights of the classes in the loss, where they have unequal numbers of images."""

import dataclasses

import numpy as np

from pictures_of.batches import Batches

NAMES = ("none", "balanced")


def balanced(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns weights `(num_classes,)` by which all classes count alike, as scikit-learn has them.

    A class without images has the weight 1. The weights of all images have the mean 1.

    Args:
        labels: Classes of the training images, integers `(n,)`.
        num_classes: Number of classes.
    """
    from sklearn.utils.class_weight import compute_class_weight

    weights, present = np.ones(num_classes, "float32"), np.unique(labels)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    return weights


def are_unequal(labels: np.ndarray, num_classes: int) -> bool:
    """Returns whether the numbers of images differ by more than a split must make them differ."""
    return int(np.ptp(np.bincount(labels, minlength=num_classes))) > 1


def weighted(batches: Batches, weights: np.ndarray) -> Batches:
    """Returns batches of images and labels with the weight of each image.

    Args:
        batches: The batches.
        weights: Weight of each class, `(num_classes,)`.
    """

    def make(*drawn):
        images, labels = batches.make(*drawn)
        return images, labels, weights[labels]

    return dataclasses.replace(batches, make=make)


def in_words(weights: np.ndarray, labels: np.ndarray, class_names: list[str]) -> str:
    """Returns what a program tells of the weights.

    Args:
        weights: Weight of each class.
        labels: Classes of the training images.
        class_names: Names of the classes.
    """
    counts = np.bincount(labels, minlength=len(weights))
    most, least = int(counts.argmax()), int(counts.argmin())
    return (
        f"classes are unequal, {counts[least]:,} images of {class_names[least]} to "
        f"{counts[most]:,} of {class_names[most]}: their weights in the loss are balanced, "
        f"{weights[least]:.2f} to {weights[most]:.2f} (--class-weights none for equal ones)"
    )
