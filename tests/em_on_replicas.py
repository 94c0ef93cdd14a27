"""Fits by EM that tests compare between strategies; as a program, one worker's fits."""

import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from kcaps.regression import CapsuleRegression

EXAMPLES = np.random.default_rng(0).normal(size=(67, 8)).astype("float32")
LABELS = np.arange(67) % 4


def fitted(architecture, **options):
    """History and kernel of a model that EM has fitted on batches that no two replicas halve."""
    keras.utils.set_random_seed(0)
    model = CapsuleRegression(4, 2, architecture)
    model.compile(metrics=["accuracy"], momentum=0.5, **options)
    history = model.fit(
        EXAMPLES[:50],
        LABELS[:50],
        batch_size=17,
        epochs=2,
        verbose=0,
        validation_data=(EXAMPLES[50:], LABELS[50:]),
    ).history
    return history, keras.ops.convert_to_numpy(model.competition.kernel).tolist()


CASES = {
    "multiclass": ("multiclass", {}),
    "one class a batch": ("all_vs_all", {}),
    "a step a batch": ("multiclass", {"update": "batch", "rate": 0.5}),
}


def fit_all():
    """Results of all cases, by name."""
    return {name: fitted(kind, **options) for name, (kind, options) in CASES.items()}


if __name__ == "__main__":
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        found = fit_all()
    number = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    (pathlib.Path(sys.argv[1]) / f"{number}.json").write_text(json.dumps(found))
