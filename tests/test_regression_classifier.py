"""The scikit-learn estimator: scikit-learn's own checks, and its neighbours' results."""

import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("scikit-learn is installed for TensorFlow only", allow_module_level=True)

from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kcaps.regression import CapsuleRegressionClassifier


# Few iterations, to save time: the checks fit some hundred models.
@parametrize_with_checks([CapsuleRegressionClassifier(max_iter=8)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.3, random_state=0, stratify=y)


@pytest.mark.parametrize("architecture", ["multiclass", "one_vs_all", "all_vs_all"])
def test_digits(digits, architecture):
    train, test, y_train, y_test = digits
    classifier = CapsuleRegressionClassifier(4, architecture, max_iter=100).fit(train, y_train)
    linear = LogisticRegression(max_iter=500).fit(train, y_train)
    # One competition is about as good as a linear model, many small ones are better.
    bound = {"multiclass": -0.02, "one_vs_all": -0.01, "all_vs_all": 0.005}[architecture]
    assert classifier.score(test, y_test) >= linear.score(test, y_test) + bound
    probabilities = classifier.predict_proba(test)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-9)
    np.testing.assert_array_equal(classifier.predict(test), probabilities.argmax(1))
    assert classifier.n_iter_ <= 100 and probabilities.dtype == np.float64


def test_float32_stays_float32(digits):
    train, test, y_train, _ = digits
    classifier = CapsuleRegressionClassifier(2, max_iter=5).fit(train.astype("float32"), y_train)
    assert classifier.predict_proba(test.astype("float32")).dtype == np.float32


def test_early_stopping(digits):
    train, test, y_train, y_test = digits
    names = np.array("zero one two three four five six seven eight nine".split())
    options = {"early_stopping": True, "max_iter": 25, "random_state": 3}
    first, second = (
        CapsuleRegressionClassifier(2, **options).fit(train, names[y_train]) for _ in range(2)
    )
    assert first.score(test, names[y_test]) > 0.9
    np.testing.assert_array_equal(first.predict_proba(test), second.predict_proba(test))
    assert set(first.classes_) == set(names)


def test_pipeline_grid_search_and_clone():
    X, y = make_classification(200, 8, n_informative=6, n_classes=3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), CapsuleRegressionClassifier(max_iter=10))
    grid = {"capsuleregressionclassifier__capsule_dim": [1, 3]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.5
    same = clone(search.best_estimator_).fit(X, y)
    np.testing.assert_allclose(same.predict_proba(X), search.predict_proba(X), rtol=1e-9)
    weighted = CapsuleRegressionClassifier(max_iter=3).fit(X, y, sample_weight=np.ones(200))
    plain = CapsuleRegressionClassifier(max_iter=3).fit(X, y)
    np.testing.assert_allclose(weighted.predict_proba(X), plain.predict_proba(X), rtol=1e-9)


def test_a_pickle_in_a_fresh_process(tmp_path):
    X, y = make_classification(60, 6, n_informative=4, n_classes=3, random_state=0)
    for dtype in ("float64", "float32"):
        data = X.astype(dtype)
        classifier = CapsuleRegressionClassifier(max_iter=5).fit(data, np.array(list("abc"))[y])
        with open(tmp_path / f"{dtype}.pickle", "wb") as file:
            pickle.dump((classifier, data), file)
    code = (
        "import pickle, sys, numpy as np\n"
        "for name in sys.argv[1:]:\n"
        "    classifier, X = pickle.load(open(name + '.pickle', 'rb'))\n"
        "    np.save(name + '.npy', classifier.predict_proba(X))\n"
        "    classifier.fit(X, classifier.predict(X))\n"
    )
    names = [str(tmp_path / dtype) for dtype in ("float64", "float32")]
    result = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in names:
        with open(f"{name}.pickle", "rb") as file:
            classifier, X = pickle.load(file)
        np.testing.assert_allclose(np.load(f"{name}.npy"), classifier.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("architecture", ["multiclass", "one_vs_all", "all_vs_all"])
def test_one_example_of_each_class(architecture):
    X = np.random.default_rng(0).normal(size=(4, 6))
    for max_iter in (1, 40):
        classifier = CapsuleRegressionClassifier(3, architecture, max_iter=max_iter)
        probabilities = classifier.fit(X, list("abcd")).predict_proba(X)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capsule_dim": 0}, "`capsule_dim` must be a positive integer"),
        ({"architecture": "tree"}, "`architecture` must be one of"),
        ({"ridge": -1.0}, "`ridge` must be a finite number >= 0"),
        ({"max_iter": 0}, "`max_iter` must be a positive integer"),
        ({"tol": -1.0}, "`tol` must be a finite number >= 0"),
    ],
)
def test_bad_arguments(options, message):
    X, y = make_classification(30, random_state=0)
    with pytest.raises(ValueError, match=message):
        CapsuleRegressionClassifier(**options).fit(X, y)
