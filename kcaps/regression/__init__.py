"""Capsule regression: softmax regression with vectors in place of scalars, fitted by EM."""

from kcaps.regression.capsule_regression import CapsuleRegression as CapsuleRegression
from kcaps.regression.competition import Competition as Competition
from kcaps.regression.interpolation import class_probabilities as class_probabilities
from kcaps.regression.interpolation import lambda_0 as lambda_0
from kcaps.regression.interpolation import lambda_1 as lambda_1
from kcaps.regression.interpolation import posterior_means as posterior_means
from kcaps.regression.schedule import ThresholdSchedule as ThresholdSchedule
from kcaps.regression.subspace import SubspaceProjection as SubspaceProjection


def __getattr__(name):
    # Only those who use the estimator import scikit-learn.
    if name == "CapsuleRegressionClassifier":
        from kcaps.regression.classifier import CapsuleRegressionClassifier

        return CapsuleRegressionClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
