"""Capsule regression as a scikit-learn estimator."""

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from kcaps.regression.capsule_regression import CapsuleRegression
from kcaps.regression.schedule import ThresholdSchedule
from kcaps.validation import non_negative, positive_int

# Below so many numbers in X, compiling by XLA takes longer than it saves.
_SMALL = 1_000_000
# Tracing takes as long as so many iterations on small data.
_FEW = 30


class CapsuleRegressionClassifier(ClassifierMixin, BaseEstimator):
    """Softmax regression with vectors in place of scalars, for scikit-learn.

    Each class has a vector `W_i x` and is as probable as it is long. With `capsule_dim=1` the
    decision boundaries are about as simple as those of logistic regression; longer vectors bend
    them. There is no learning rate.

    A constant feature is added to `X`; nothing is scaled. As in logistic regression, features of
    similar size converge faster (`StandardScaler`), and `ridge` keeps weights small.

    Args:
        capsule_dim: Components of each class's vector. Defaults to 2.
        architecture: `"multiclass"`, `"one_vs_all"` or `"all_vs_all"`. Defaults to
            `"multiclass"`.
        ridge: Precision of a Gaussian prior on the weights, as `1/C` of `LogisticRegression`.
            Defaults to 1.
        threshold: Examples whose second class is at most this times as probable as their own no
            longer pull. 0 fits the likelihood; more aims at a low error instead. Defaults to 0.3.
        max_iter: Most iterations of EM. Defaults to 200.
        tol: Iterations stop when no weight changes by more than this share of the largest one.
            Defaults to 1e-4.
        early_stopping: Whether to hold out a tenth of the examples, drawn by class, and train in
            rounds of falling threshold until their error no longer falls (`ThresholdSchedule`);
            `threshold` and `tol` are then not used. Defaults to False.
        random_state: Seed, generator or None, for the examples held out. Defaults to None.

    Attributes:
        classes_: The labels.
        model_: The fitted `CapsuleRegression`, of `X` with a column of ones after it; in float32
            for a float32 `X`, in float64 otherwise.
        n_iter_: Iterations of EM that were run.
        n_features_in_: Number of features.

    Example:

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = CapsuleRegressionClassifier(capsule_dim=4).fit(X[:1500] / 16, y[:1500])
    >>> accuracy = classifier.score(X[1500:] / 16, y[1500:])

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336).
    """

    def __init__(
        self,
        capsule_dim=2,
        architecture="multiclass",
        ridge=1.0,
        threshold=0.3,
        max_iter=200,
        tol=1e-4,
        early_stopping=False,
        random_state=None,
    ):
        self.capsule_dim = capsule_dim
        self.architecture = architecture
        self.ridge = ridge
        self.threshold = threshold
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.random_state = random_state

    def fit(self, X, y, sample_weight=None):
        """Fits the capsules.

        Args:
            X: Array `(n_samples, n_features)`.
            y: Labels of any kind `(n_samples,)`.
            sample_weight: Weights `(n_samples,)`, or None.

        Returns:
            The classifier.

        Raises:
            ValueError: for data that is not finite, fewer than two classes, or an argument out
                of its range.
        """
        max_iter, tol = positive_int("max_iter", self.max_iter), non_negative("tol", self.tol)
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "`y` must have at least two classes. Received: one class, "
                f"{list(self.classes_)!r:.80}."
            )
        self.model_ = CapsuleRegression(
            len(self.classes_), self.capsule_dim, self.architecture, dtype=str(X.dtype)
        )
        small = X.size < _SMALL
        self.model_.compile(
            momentum=0.9,
            ridge=self.ridge,
            threshold=self.threshold,
            jit_compile=not small,
            run_eagerly=small and max_iter <= _FEW,
        )
        training, validation = self._split(self._features(X), labels, weights)
        stop = ThresholdSchedule() if validation else _Convergence(tol)
        history = self.model_.fit(
            *training[:2],
            sample_weight=training[2],
            validation_data=validation,
            epochs=max_iter,
            verbose=0,
            callbacks=[stop],
        )
        self.n_iter_ = len(history.epoch)
        return self

    def predict_proba(self, X):
        """Class probabilities `(n_samples, n_classes)`, in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        batches = np.array_split(self._features(X), max(1, len(X) // 4096))
        return np.concatenate([self._probabilities(batch) for batch in batches])

    def predict(self, X):
        """Most probable label of each row of `X`."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _probabilities(self, features):
        return keras.ops.convert_to_numpy(self.model_(features, training=False))

    def _features(self, X):
        return np.hstack([X, np.ones((len(X), 1), X.dtype)]).astype(self.model_.compute_dtype)

    def _split(self, features, labels, weights):
        """Training and validation data, `(x, y, sample_weight)` each; validation may be None."""
        if not self.early_stopping:
            return (features, labels, weights), None
        from sklearn.model_selection import train_test_split

        train, held_out = train_test_split(
            np.arange(len(labels)),
            test_size=0.1,
            stratify=labels,
            random_state=self.random_state,
        )

        def part(rows):
            return features[rows], labels[rows], None if weights is None else weights[rows]

        return part(train), part(held_out) if weights is not None else part(held_out)[:2]


class _Convergence(keras.callbacks.Callback):
    """Stops when no weight changes by more than `tol` of the largest one."""

    def __init__(self, tol):
        super().__init__()
        self.tol = tol

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self._kernel()

    def on_epoch_end(self, epoch, logs=None):
        kernel = self._kernel()
        if np.abs(kernel - self.before).max() <= self.tol * np.abs(kernel).max():
            self.model.stop_training = True

    def _kernel(self):
        return keras.ops.convert_to_numpy(self.model.competition.kernel)
