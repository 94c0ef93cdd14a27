"""Capsule regression as a scikit-learn estimator."""

import functools
import warnings

import keras
import numpy as np

from kcaps.backend.arrays import available_dtype
from kcaps.extras import needed_by
from kcaps.regression.capsule_regression import CapsuleRegression
from kcaps.regression.competition import Competition
from kcaps.regression.data import class_factors, with_ones
from kcaps.regression.em import NumPyTraining, is_small, probabilities
from kcaps.regression.schedule import Convergence, Lines, ThresholdSchedule
from kcaps.regression.state import checked_option
from kcaps.validation import boolean, non_negative, positive_int

with needed_by("CapsuleRegressionClassifier", "sklearn", sklearn="scikit-learn"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data


class CapsuleRegressionClassifier(ClassifierMixin, BaseEstimator):
    """Softmax regression with vectors in place of scalars, for scikit-learn.

    Each class has a vector `W_i x` and is as probable as it is long. With `capsule_dim=1` the
    decision boundaries are about as simple as those of logistic regression; longer vectors bend
    them. There is no learning rate.

    A constant feature is added to `X`; nothing is scaled. As in logistic regression, features of
    similar size converge faster (`StandardScaler`), and `ridge` keeps weights small.

    Small data are fitted and predicted by NumPy, on every backend of Keras alike; large data by
    `CapsuleRegression.fit`, whose compiled steps are the same.

    Args:
        capsule_dim: Components of each class's vector, or one number for each of `classes_`.
            Defaults to 2.
        architecture: `"multiclass"`, `"one_vs_all"` or `"all_vs_all"`. Defaults to
            `"multiclass"`.
        ridge: Precision of a Gaussian prior on the weights, as `1/C` of `LogisticRegression`.
            Defaults to 1.
        threshold: Examples whose second class is at most this times as probable as their own no
            longer pull. 0 fits the likelihood; more aims at a low error instead. Defaults to 0.3.
        max_iter: Most iterations of EM. Defaults to 1,000.
        tol: Improvement of the mean penalised log-likelihood that counts as one, by example and
            problem. Defaults to 2e-4.
        early_stopping: Whether to hold out a tenth of the examples, drawn by class, and train in
            rounds of falling threshold until their error no longer falls (`ThresholdSchedule`);
            `threshold`, `tol` and `n_iter_no_change` are then not used. Defaults to False.
        random_state: Seed, generator or None, for the examples held out. Defaults to None.
        n_iter_no_change: Iterations end when so many of them have neither improved the likelihood
            by `tol` nor lowered the error on the training data. Defaults to 40.
        class_weight: Dict from labels to weights (1 where a label has none), `"balanced"` for
            weights that give all classes the same sum, or None. Defaults to None.
        warm_start: Whether `fit` goes on from the weights of the last `fit`. Defaults to False.
        verbose: Whether to print a line for each iteration. Defaults to False.

    Attributes:
        classes_: The labels.
        model_: The fitted `CapsuleRegression`, of `X` with a column of ones after it; in float32
            for a float32 `X` and where the backend has no float64, in float64 otherwise.
        n_iter_: Iterations of EM that were run.
        n_features_in_: Number of features.

    Raises:
        ModuleNotFoundError: on import, where scikit-learn is not installed.

    Example:

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = CapsuleRegressionClassifier(capsule_dim=4).fit(X[:1500] / 16, y[:1500])
    >>> bool(classifier.score(X[1500:] / 16, y[1500:]) > 0.9)
    True

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336).
    """

    def __init__(
        self,
        capsule_dim=2,
        architecture="multiclass",
        ridge=1.0,
        threshold=0.3,
        max_iter=1000,
        tol=2e-4,
        early_stopping=False,
        random_state=None,
        n_iter_no_change=40,
        class_weight=None,
        warm_start=False,
        verbose=False,
    ):
        self.capsule_dim = capsule_dim
        self.architecture = architecture
        self.ridge = ridge
        self.threshold = threshold
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.random_state = random_state
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None):
        """Fits the capsules.

        Args:
            X: Array `(n_samples, n_features)`; sparse matrices are refused.
            y: Labels of any kind `(n_samples,)`.
            sample_weight: Weights `(n_samples,)`, or None.

        Returns:
            The classifier.

        Raises:
            ValueError: for data that is not finite, fewer than two classes, too few examples for
                `early_stopping`, or an argument out of its range.
            TypeError: for sparse data.
        """
        max_iter, tol = positive_int("max_iter", self.max_iter), non_negative("tol", self.tol)
        patience = positive_int("n_iter_no_change", self.n_iter_no_change)
        for name in ("early_stopping", "warm_start"):
            boolean(name, getattr(self, name))
        last = (self.classes_, self._weights()) if hasattr(self, "_kernel") else None
        X, labels, weights = self._checked(X, y, sample_weight)
        features = with_ones(X)
        training, validation = self._split(features, labels, weights)
        self._make(features, last if self.warm_start else None)
        layer = self._layer()
        if validation is not None:
            stop = ThresholdSchedule()
        else:
            penalty = float(self.ridge) / 2 / np.sum(training[2])
            num_problems = int(layer.problems.targets[0].any(-1).sum())  # Each example meets these.
            stop = Convergence(tol, patience, penalty, num_problems)
        run = self._run_numpy if is_small(layer, features) else self._run_keras
        callbacks = [stop, *([Lines()] if self.verbose else [])]
        self.n_iter_ = run(training, validation, max_iter, callbacks)
        if not stop.finished:
            rounds = "the rounds of `early_stopping`" if self.early_stopping else "EM"
            warnings.warn(
                f"{type(self).__name__}: {rounds} did not converge in max_iter={max_iter}; "
                "increase max_iter or scale the data (e.g. StandardScaler).",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    @functools.cached_property
    def model_(self) -> CapsuleRegression:
        """The fitted `CapsuleRegression`, made when it is first asked for."""
        if not hasattr(self, "_kernel"):
            raise AttributeError("There is no `model_` yet. Call `fit` first.")
        model = CapsuleRegression(*self._arguments, dtype=str(self._kernel.dtype))
        model.compile(**self._options)
        model.build((None, self._kernel.shape[1]))
        model.built = True
        model.kernel = self._kernel
        return model

    def predict_proba(self, X) -> np.ndarray:
        """Returns class probabilities `(n_samples, n_classes)`, in the order of `classes_`."""
        check_is_fitted(self)
        features = with_ones(self._dense(X, reset=False))
        layer, kernel = self._layer(), self._weights()
        if is_small(layer, features):
            dtype = np.result_type(kernel.dtype, features.dtype)
            kernel, features = kernel.astype(dtype), features.astype(dtype)
            answer = functools.partial(probabilities, layer, kernel)
        else:
            features = features.astype(kernel.dtype)
            answer = functools.partial(self.model_, training=False)
        batches = np.array_split(features, max(1, len(features) // 4096))
        return np.concatenate([keras.ops.convert_to_numpy(answer(batch)) for batch in batches])

    def predict(self, X):
        """Returns the most probable label of each row of `X`, `(n_samples,)`."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def decision_function(self, X):
        """Returns the log-odds of each class against all others.

        Returns:
            Array `(n_samples, n_classes)`; of two classes those of the second one, `(n_samples,)`,
            which are above 0 where it is predicted.
        """
        chances = self.predict_proba(X).astype("float64")
        count, tiny = chances.shape[1], np.finfo("float64").tiny
        if count == 2:
            # The difference of two logarithms may be 0 where chances are not the same.
            gap = chances[:, 1] - chances[:, 0]
            least = np.maximum(chances.min(axis=1), tiny)
            return np.sign(gap) * np.log1p(np.abs(gap) / least)
        others = chances @ (1 - np.eye(count))  # This is a sum, as 1 - p would cancel.
        return np.log(np.maximum(chances, tiny)) - np.log(np.maximum(others, tiny))

    def _dense(self, X, y=None, **options):
        """Returns `X` (and `y`) as scikit-learn checks them, and refuses sparse data."""
        if hasattr(X, "tocsr"):
            raise TypeError(
                "`X` must be dense: EM needs the second moments of all features. Received: a "
                f"sparse {type(X).__name__} of shape {X.shape}. Reduce it first, e.g. by "
                "TruncatedSVD, or convert it by X.toarray() if memory allows."
            )
        arrays = (X,) if y is None else (X, y)
        return validate_data(self, *arrays, dtype=[np.float64, np.float32], **options)

    def _checked(self, X, y, sample_weight):
        """Returns `X`, integers for classes and weights above 0, and sets `classes_`."""
        if y is None:
            validate_data(self, X, y)  # This raises the error of scikit-learn.
        X, y = self._dense(X, y)
        check_classification_targets(y)
        weights = np.ones(len(X))
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "`y` must have at least two classes. Received: one class, "
                f"{list(self.classes_)!r:.80}."
            )
        factors = class_factors(self.class_weight, self.classes_, labels, weights)
        return X, labels, weights * factors[labels]

    def _make(self, features, last):
        """Sets what the model of data is made of, with the labels and weights of the last `fit`."""
        arguments = len(self.classes_), self.capsule_dim, self.architecture
        layer = Competition(*arguments, "zeros")
        options = {"momentum": 0.9, "threshold": self.threshold, "ridge": self.ridge}
        options = {name: checked_option(name, value) for name, value in options.items()}
        (n, c), d = layer.dims.shape, layer.dims.max()
        kernel = np.zeros((n, features.shape[1], c, d), available_dtype(features.dtype))
        if last is not None:
            classes, weights = last
            if not np.array_equal(classes, self.classes_) or weights.shape != kernel.shape:
                raise ValueError(
                    "`warm_start` needs the classes, features, `capsule_dim` and `architecture` of "
                    f"the last `fit`. Received: {len(self.classes_)} classes and weights of shape "
                    f"{kernel.shape}, after {len(classes)} classes and shape {weights.shape}. Set "
                    "warm_start=False, or fit a clone."
                )
            kernel = weights
        self._arguments, self._options, self._kernel = arguments, options, kernel
        vars(self).pop("model_", None)

    def _layer(self):
        """Returns a `Competition` of the problems of the last `fit`, without weights."""
        return Competition(*self._arguments, "zeros")

    def _weights(self):
        """Returns the weights, those of the model once there is one."""
        return self.model_.kernel if "model_" in vars(self) else self._kernel

    def _split(self, features, labels, weights):
        """Returns the data for training, and for validation or None, as triples of arrays."""
        data = features, labels, weights
        if not self.early_stopping:
            return data, None
        least, held_out = np.bincount(labels).min(), int(np.ceil(0.1 * len(labels)))
        if least < 2 or held_out < len(self.classes_):
            raise ValueError(
                "`early_stopping` holds out a tenth of the examples, and must find every class on "
                f"both sides: it needs more than {round(10 * (len(self.classes_) - 1))} examples, "
                f"and 2 of each class. Received: {len(labels)} examples of {len(self.classes_)} "
                f"classes, {least} of the rarest. Set early_stopping=False, or give more examples."
            )
        options = {"stratify": labels, "random_state": self.random_state}
        train, test = train_test_split(np.arange(len(labels)), test_size=held_out, **options)
        return tuple(part[train] for part in data), tuple(part[test] for part in data)

    def _run_numpy(self, training, validation, max_iter, callbacks):
        """Fits the weights by NumPy, and returns the number of iterations."""
        kernel = self._kernel if self._kernel.any() else None
        run = NumPyTraining(self._layer(), training, kernel, **self._options)
        count = run.fit(max_iter, callbacks, validation)
        self._kernel = run.kernel.astype(self._kernel.dtype)
        return count

    def _run_keras(self, training, validation, max_iter, callbacks):
        """Fits the weights by Keras' loop, and returns the number of iterations."""
        (features, labels, weights), dtype = training, self._kernel.dtype
        if validation is not None:
            validation = (validation[0].astype(dtype), *validation[1:])
        options = {"epochs": max_iter, "verbose": 0, "callbacks": callbacks}
        options |= {"sample_weight": weights, "validation_data": validation}
        history = self.model_.fit(features.astype(dtype), labels, **options)
        return len(history.epoch)
