"""Capsule regression as a scikit-learn estimator."""

import warnings

import keras
import numpy as np

from kcaps.regression.batches import class_factors
from kcaps.regression.capsule_regression import CapsuleRegression
from kcaps.regression.convergence import Convergence, Lines
from kcaps.regression.numpy_training import NumPyTraining, is_faster, probabilities
from kcaps.regression.schedule import ThresholdSchedule
from kcaps.validation import boolean, non_negative, positive_int

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise  # scikit-learn is there, and lacks something itself
    raise ModuleNotFoundError(
        "`CapsuleRegressionClassifier` needs scikit-learn, of the extra kcaps[sklearn]. "
        "Install it: pip install scikit-learn",
        name=error.name,
    ) from None

_HELD_OUT = 0.1


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
        before = self._before() if self.warm_start else None
        X, labels, weights = self._checked(X, y, sample_weight)
        model, features = self._make_model(X)
        kernel = None if before is None else self._went_on_from(*before, model)
        training, validation = self._split(features, labels, weights)
        if validation is not None:
            stop = ThresholdSchedule()
        else:
            share = {"one_vs_all": len(self.classes_), "all_vs_all": len(self.classes_) - 1}
            penalty = float(self.ridge) / 2 / np.sum(training[2])
            stop = Convergence(tol, patience, penalty, share.get(self.architecture, 1))
        self.model_ = model
        run = self._run_numpy if is_faster(model.competition, features) else self._run_keras
        callbacks = [stop, *([Lines()] if self.verbose else [])]
        self.n_iter_ = run(training, validation, kernel, max_iter, callbacks)
        if not stop.finished:
            rounds = "the rounds of `early_stopping`" if self.early_stopping else "EM"
            warnings.warn(
                f"{type(self).__name__}: {rounds} did not converge in max_iter={max_iter}; "
                "increase max_iter or scale the data (e.g. StandardScaler).",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict_proba(self, X):
        """Returns class probabilities `(n_samples, n_classes)`, in the order of `classes_`."""
        check_is_fitted(self)
        features = _with_ones(self._dense(X, reset=False))
        if is_faster(self.model_.competition, features):
            kernel = self.model_.kernel
            dtype = np.result_type(kernel.dtype, features.dtype)
            kernel, features = kernel.astype(dtype), features.astype(dtype)

            def answer(batch):
                return probabilities(self.model_.competition, kernel, batch)
        else:
            features = features.astype(self.model_.competition.compute_dtype)

            def answer(batch):
                return keras.ops.convert_to_numpy(self.model_(batch, training=False))

        batches = np.array_split(features, max(1, len(features) // 4096))
        return np.concatenate([answer(batch) for batch in batches])

    def predict(self, X):
        """Returns the most probable label of each row of `X`, `(n_samples,)`."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def decision_function(self, X):
        """Returns the log-odds of each class against all others.

        Args:
            X: Array `(n_samples, n_features)`.

        Returns:
            Array `(n_samples, n_classes)`; of two classes those of the second one, `(n_samples,)`,
            which are above 0 where it is predicted.
        """
        chances = self.predict_proba(X).astype("float64")
        count, tiny = chances.shape[1], np.finfo("float64").tiny
        if count == 2:
            # Not the difference of two logarithms, which may be 0 where chances are not the same.
            gap = chances[:, 1] - chances[:, 0]
            least = np.maximum(chances.min(axis=1), tiny)
            return np.sign(gap) * np.log1p(np.abs(gap) / least)
        others = chances @ (1 - np.eye(count))  # a sum, as 1 - p would cancel
        return np.log(np.maximum(chances, tiny)) - np.log(np.maximum(others, tiny))

    def _dense(self, X, y=None, **options):
        """`X` (and `y`) as scikit-learn checks them, after a refusal of sparse data."""
        if hasattr(X, "tocsr"):
            raise TypeError(
                "`X` must be dense: EM needs the second moments of all features. Received: a "
                f"sparse {type(X).__name__} of shape {X.shape}. Reduce it first, e.g. by "
                "TruncatedSVD, or convert it by X.toarray() if memory allows."
            )
        arrays = (X,) if y is None else (X, y)
        return validate_data(self, *arrays, dtype=[np.float64, np.float32], **options)

    def _checked(self, X, y, sample_weight):
        """`X`, integers for the classes and a weight above 0 for each example; sets `classes_`."""
        if y is None:
            validate_data(self, X, y)  # raises scikit-learn's own error
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

    def _make_model(self, X):
        """The compiled and built model of `X` with ones, and these features."""
        model = CapsuleRegression(
            len(self.classes_), self.capsule_dim, self.architecture, dtype=_model_dtype(X.dtype)
        )
        model.compile(momentum=0.9, ridge=self.ridge, threshold=self.threshold)
        features = _with_ones(X)
        model.build((None, features.shape[1]))
        model.built = True
        return model, features

    def _before(self):
        """Labels and weights of the last `fit`, or None."""
        return (self.classes_, self.model_.kernel) if hasattr(self, "model_") else None

    def _went_on_from(self, classes, kernel, model):
        """The weights of the last `fit`, which must be those of a model like this one."""
        shape = tuple(model.competition.kernel.shape)
        if not np.array_equal(classes, self.classes_) or kernel.shape != shape:
            raise ValueError(
                "`warm_start` needs the classes, features, `capsule_dim` and `architecture` of the "
                "last `fit`. Received: "
                f"{len(self.classes_)} classes and weights of shape {shape}, after {len(classes)} "
                f"classes and shape {kernel.shape}. Set warm_start=False, or fit a clone."
            )
        return kernel

    def _split(self, features, labels, weights):
        """Training and validation data, `(features, labels, weights)` each; the latter or None."""
        data = features, labels, weights
        if not self.early_stopping:
            return data, None
        least, held_out = np.bincount(labels).min(), int(np.ceil(_HELD_OUT * len(labels)))
        if least < 2 or held_out < len(self.classes_):
            raise ValueError(
                "`early_stopping` holds out a tenth of the examples, and must find every class on "
                f"both sides: it needs more than {round(10 * (len(self.classes_) - 1))} examples, "
                f"and 2 of each class. Received: {len(labels)} examples of {len(self.classes_)} "
                f"classes, {least} of the rarest. Set early_stopping=False, or give more examples."
            )
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=held_out,
            stratify=labels,
            random_state=self.random_state,
        )
        return tuple(part[train] for part in data), tuple(part[test] for part in data)

    def _run_numpy(self, training, validation, kernel, max_iter, callbacks):
        """Fits by NumPy and gives the model the weights; returns the number of iterations."""
        model = self.model_
        em = NumPyTraining(
            model.competition,
            *training,
            kernel=kernel,
            momentum=model.momentum,
            threshold=model.threshold,
            ridge=model.ridge,
        )
        count = em.fit(max_iter, callbacks, validation)
        model.kernel = em.kernel
        return count

    def _run_keras(self, training, validation, kernel, max_iter, callbacks):
        """Fits by Keras' loop; returns the number of iterations."""
        model = self.model_
        if kernel is not None:
            model.kernel = kernel
        (features, labels, weights), dtype = training, model.competition.compute_dtype
        if validation is not None:
            validation = (validation[0].astype(dtype), *validation[1:])
        history = model.fit(
            features.astype(dtype),
            labels,
            sample_weight=weights,
            validation_data=validation,
            epochs=max_iter,
            verbose=0,
            callbacks=callbacks,
        )
        return len(history.epoch)


def _with_ones(X):
    return np.hstack([X, np.ones((len(X), 1), X.dtype)])


def _model_dtype(dtype):
    """`dtype` as the model's, or float32 where the backend has no float64."""
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.dtypes.canonicalize_dtype(dtype))
    return str(dtype)
