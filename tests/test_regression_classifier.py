"""The scikit-learn estimator: scikit-learn's own checks, and its neighbours' results."""

import os
import pickle
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    load_iris,
    load_wine,
    make_classification,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kcaps.regression import CapsuleRegressionClassifier

ARCHITECTURES = ["multiclass", "one_vs_all", "all_vs_all"]
BACKEND = keras.backend.backend()


@parametrize_with_checks(
    [
        CapsuleRegressionClassifier(),
        CapsuleRegressionClassifier(architecture="all_vs_all", class_weight="balanced"),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.3, random_state=0, stratify=y)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_digits(digits, architecture):
    train, test, y_train, y_test = digits
    classifier = CapsuleRegressionClassifier(4, architecture).fit(train, y_train)
    linear = LogisticRegression(max_iter=500).fit(train, y_train)
    # One competition is about as good as a linear model, many small ones are better.
    bound = {"multiclass": -0.02, "one_vs_all": -0.01, "all_vs_all": 0.005}[architecture]
    assert classifier.score(test, y_test) >= linear.score(test, y_test) + bound
    probabilities = classifier.predict_proba(test)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-9)
    np.testing.assert_array_equal(classifier.predict(test), probabilities.argmax(1))
    assert 1 < classifier.n_iter_ < 1000 and probabilities.dtype == np.float64


def test_float32_stays_float32(digits):
    train, test, y_train, _ = digits
    classifier = CapsuleRegressionClassifier(2).fit(train.astype("float32"), y_train)
    assert classifier.model_.competition.kernel.dtype == "float32"
    assert classifier.predict_proba(test.astype("float32")).dtype == np.float32


def test_early_stopping(digits):
    train, test, y_train, y_test = digits
    names = np.array("zero one two three four five six seven eight nine".split())
    options = {"early_stopping": True, "random_state": 3}
    first, second = (
        CapsuleRegressionClassifier(2, **options).fit(train, names[y_train]) for _ in range(2)
    )
    assert first.score(test, names[y_test]) > 0.9
    np.testing.assert_array_equal(first.predict_proba(test), second.predict_proba(test))
    assert set(first.classes_) == set(names)


def test_pipeline_grid_search_and_clone():
    X, y = make_classification(200, 8, n_informative=6, n_classes=3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), CapsuleRegressionClassifier())
    grid = {"capsuleregressionclassifier__capsule_dim": [1, 3]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_score_ > 0.5
    same = clone(search.best_estimator_).fit(X, y)
    np.testing.assert_allclose(same.predict_proba(X), search.predict_proba(X), rtol=1e-9)
    weighted = CapsuleRegressionClassifier().fit(X, y, sample_weight=np.ones(200))
    plain = CapsuleRegressionClassifier().fit(X, y)
    np.testing.assert_allclose(weighted.predict_proba(X), plain.predict_proba(X), rtol=1e-9)


def test_a_pickle_in_a_fresh_process(tmp_path):
    X, y = make_classification(60, 6, n_informative=4, n_classes=3, random_state=0)
    for dtype in ("float64", "float32"):
        data = X.astype(dtype)
        classifier = CapsuleRegressionClassifier().fit(data, np.array(list("abc"))[y])
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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_example_of_each_class(architecture):
    X = np.random.default_rng(0).normal(size=(4, 6))
    for max_iter in (1, 40):
        classifier = CapsuleRegressionClassifier(3, architecture, max_iter=max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
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
        ({"n_iter_no_change": 0}, "`n_iter_no_change` must be a positive integer"),
        ({"threshold": -0.1}, "`threshold` must be a finite number >= 0"),
        ({"early_stopping": "yes"}, "`early_stopping` must be True or False"),
        ({"warm_start": 1}, "`warm_start` must be True or False"),
        ({"class_weight": "even"}, "`class_weight` must be None, 'balanced' or a dict"),
        ({"class_weight": {0: -1.0}}, "`class_weight` must be positive"),
        ({"class_weight": {0: 1.0, 7: 2.0}}, r"keys among the labels, \[0, 1\]. Received: .*\[7\]"),
    ],
)
def test_bad_arguments(options, message):
    X, y = make_classification(30, random_state=0)
    with pytest.raises(ValueError, match=message):
        CapsuleRegressionClassifier(**options).fit(X, y)


DATA = {"iris": load_iris, "wine": load_wine, "cancer": load_breast_cancer, "digits": load_digits}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_convergence_on_small_data(name, scaled, early_stopping):
    """With default arguments and no warning, which the suite takes for an error."""
    X, y = DATA[name](return_X_y=True)
    X = StandardScaler().fit_transform(X) if scaled else X
    classifier = CapsuleRegressionClassifier(early_stopping=early_stopping, random_state=0)
    classifier.fit(X, y)
    assert 1 < classifier.n_iter_ < classifier.max_iter
    assert classifier.score(X, y) > 0.89


def test_accuracy_is_not_lost_by_stopping():
    """Against two hundred iterations, which used to be made of all data."""
    for name, margin in [("iris", 0.021), ("wine", 0.006), ("cancer", 0.004), ("digits", 0.004)]:
        X, y = DATA[name](return_X_y=True)
        X = StandardScaler().fit_transform(X)
        fixed = CapsuleRegressionClassifier(max_iter=200, n_iter_no_change=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            expected = cross_val_score(fixed, X, y).mean()
        assert cross_val_score(CapsuleRegressionClassifier(), X, y).mean() >= expected - margin


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_that_does_not_converge_warns(early_stopping):
    X, y = load_iris(return_X_y=True)
    classifier = CapsuleRegressionClassifier(early_stopping=early_stopping, max_iter=20)
    with pytest.warns(ConvergenceWarning, match="did not converge in max_iter=20; increase max_i"):
        classifier.fit(X, y)
    assert classifier.n_iter_ == 20


def test_small_data_are_fitted_in_no_time():
    """Without the start-up of a backend's loop, which takes seconds."""
    X, y = load_iris(return_X_y=True)
    CapsuleRegressionClassifier().fit(X, y)  # what happens once in a process
    started = time.perf_counter()
    classifier = CapsuleRegressionClassifier().fit(X, y)
    fitted = time.perf_counter()
    for row in X[:50]:
        classifier.predict_proba(row[None])
    assert fitted - started < 1.5 and time.perf_counter() - fitted < 1.5  # 0.1 and 0.05 s


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_large_data_are_fitted_alike(monkeypatch, architecture):
    """By Keras' loop, from which on NumPy is slower; weights, rounds and restarts included."""
    X, y = make_classification(150, 8, n_informative=5, n_classes=3, random_state=0)
    options = {"architecture": architecture, "max_iter": 12, "random_state": 0}
    rng = np.random.default_rng(0)
    data = X, y, rng.uniform(0.5, 2, size=len(X))
    kinds = [{}, {"early_stopping": True}, {"class_weight": {0: 3.0, 2: 0.5}}]
    kinds = kinds if architecture == "multiclass" else kinds[:1]
    for further in kinds:
        first, second = (CapsuleRegressionClassifier(**options, **further) for _ in range(2))
        with pytest.warns(ConvergenceWarning):
            first.fit(*data)
        with monkeypatch.context() as patch:
            patch.setattr("kcaps.regression.em._LARGE", 0)
            with pytest.warns(ConvergenceWarning):
                second.fit(*data)
            slow = second.predict_proba(X)
        accuracy = {"rtol": 2e-2, "atol": 2e-3} if BACKEND == "jax" else {"rtol": 1e-7}
        np.testing.assert_allclose(first.predict_proba(X), slow, **accuracy)
        assert first.n_iter_ == second.n_iter_ == 12


def test_the_model_inside(tmp_path):
    X, y = load_iris(return_X_y=True)
    classifier = CapsuleRegressionClassifier().fit(X, y)
    features = np.hstack([X, np.ones((len(X), 1))])
    expected = classifier.predict_proba(X)
    np.testing.assert_allclose(classifier.model_.predict(features, verbose=0), expected, rtol=1e-4)
    classifier.model_.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(features, verbose=0), expected, rtol=1e-4)
    error = loaded.evaluate(features, y, verbose=0, return_dict=True)["error"]
    assert error == pytest.approx(1 - classifier.score(X, y), abs=1e-6)
    classifier.model_.fit(features, y, epochs=2, verbose=0)  # goes on from these weights


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decision_function(architecture, count, dtype):
    X, y = make_classification(
        200, 8, n_informative=6, n_classes=count, class_sep=2.0, random_state=1
    )
    names = np.array([f"class {k}" for k in range(count)])
    classifier = CapsuleRegressionClassifier(architecture=architecture)
    classifier.fit(X.astype(dtype), names[y])
    scores, chances = classifier.decision_function(X), classifier.predict_proba(X)
    if count == 2:
        assert scores.shape == (200,)
        np.testing.assert_array_equal(classifier.predict(X), names[(scores > 0).astype(int)])
        np.testing.assert_allclose(1 / (1 + np.exp(-scores)), chances[:, 1], rtol=1e-6)
        return
    assert scores.shape == (200, count)
    np.testing.assert_array_equal(classifier.predict(X), names[scores.argmax(1)])
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), chances, rtol=1e-6)


def test_decision_function_at_extremes(monkeypatch):
    """Chances that differ in their last bit, are the same, or have no logarithm."""
    half, next_one = 0.5, np.nextafter(0.5, 1)
    chances = np.array([[half, next_one], [next_one, half], [half, half], [0.0, 1.0], [1.0, 0.0]])
    classifier = CapsuleRegressionClassifier()
    monkeypatch.setattr(classifier, "predict_proba", lambda X: chances)
    scores = classifier.decision_function(None)
    assert np.isfinite(scores).all() and scores[2] == 0
    assert scores[0] > 0 > scores[1] and scores[3] > 700 and scores[4] == -scores[3]
    chances = np.array([[1.0, 0.0, 0.0], [1 - 1e-30, 1e-30, 1e-300], [1 / 3] * 3])
    scores = classifier.decision_function(None)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[1], np.log([1e30, 1e-30, 1e-300]), rtol=1e-6)


def test_class_weights_repeat_examples():
    X, y = make_classification(120, 5, n_informative=4, n_redundant=1, n_classes=3, random_state=0)
    labels = np.array(["red", "green", "blue"])[y]
    counts = {"red": 3, "green": 1, "blue": 2}
    weighted = CapsuleRegressionClassifier(class_weight={"red": 3, "blue": 2.0}).fit(X, labels)
    times = np.array([counts[label] for label in labels])
    repeated = CapsuleRegressionClassifier().fit(np.repeat(X, times, 0), np.repeat(labels, times))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-3)
    both = CapsuleRegressionClassifier(class_weight={"red": 3, "blue": 2.0})
    both.fit(X, labels, sample_weight=np.where(labels == "red", 1 / 3, 1.0))
    some = CapsuleRegressionClassifier().fit(X, labels, sample_weight=np.where(y == 2, 2.0, 1.0))
    np.testing.assert_allclose(both.predict_proba(X), some.predict_proba(X), rtol=1e-3)


def test_balanced_classes():
    X, y = make_classification(400, 6, n_informative=4, weights=[0.9], flip_y=0.2, random_state=0)
    plain = CapsuleRegressionClassifier().fit(X, y)
    balanced = CapsuleRegressionClassifier(class_weight="balanced").fit(X, y)
    counts = np.bincount(y)
    same = CapsuleRegressionClassifier().fit(X, y, sample_weight=len(y) / 2 / counts[y])
    np.testing.assert_allclose(balanced.predict_proba(X), same.predict_proba(X), rtol=1e-9)
    assert (balanced.predict(X) == 1).mean() > (plain.predict(X) == 1).mean() + 0.05
    weights = np.where(y == 1, 2.0, 1.0)  # of a sample that has the rare class twice
    received = CapsuleRegressionClassifier(class_weight="balanced").fit(X, y, weights)
    repeated = CapsuleRegressionClassifier(class_weight="balanced")
    repeated.fit(np.concatenate([X, X[y == 1]]), np.concatenate([y, y[y == 1]]))
    np.testing.assert_allclose(received.predict_proba(X), repeated.predict_proba(X), rtol=1e-3)


def test_warm_start_goes_on():
    X, y = load_wine(return_X_y=True)
    first = CapsuleRegressionClassifier(warm_start=True, max_iter=15)
    kernels = []
    for _ in range(2):
        with pytest.warns(ConvergenceWarning):
            first.fit(X, y)
        assert first.n_iter_ == 15
        kernels.append(first.model_.kernel)
    cold = CapsuleRegressionClassifier(max_iter=15)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning):
            cold.fit(X, y)
        np.testing.assert_array_equal(cold.model_.kernel, kernels[0])
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-6
    first.set_params(max_iter=1000).fit(X, y)
    for arguments, options in [((X[:, :5], y), {}), ((X, y % 2), {}), ((X, y), {"capsule_dim": 3})]:
        other = pickle.loads(pickle.dumps(first)).set_params(**options)
        with pytest.raises(ValueError, match="`warm_start` needs the classes, features, `capsule_"):
            other.fit(*arguments)
        other.set_params(warm_start=False).fit(*arguments)


def test_verbose_prints_a_line_for_each_iteration(capsys):
    X, y = load_iris(return_X_y=True)
    CapsuleRegressionClassifier().fit(X, y)
    assert capsys.readouterr().out == ""
    classifier = CapsuleRegressionClassifier(verbose=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == classifier.n_iter_
    assert lines[0].startswith("iteration 1: loss ") and ", error " in lines[-1]
    classifier = CapsuleRegressionClassifier(verbose=1, early_stopping=True).fit(X, y)
    assert "val_error" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_array", "lil_matrix"])
def test_sparse_data_are_refused(kind):
    from scipy import sparse

    X, y = load_iris(return_X_y=True)
    classifier = CapsuleRegressionClassifier()
    matrix = getattr(sparse, kind)(X)
    with pytest.raises(TypeError, match="`X` must be dense.*a sparse .*TruncatedSVD"):
        classifier.fit(matrix, y)
    classifier.fit(X, y)
    for method in (classifier.predict, classifier.predict_proba, classifier.decision_function):
        with pytest.raises(TypeError, match="`X` must be dense"):
            method(matrix)


@pytest.mark.parametrize(
    "y",
    [
        np.arange(30) % 10,  # 3 examples held out, of 10 classes
        np.arange(100) % 20,
        np.array([0] * 60 + [1] * 60 + [2]),
        np.arange(5) % 3,
    ],
)
def test_too_few_examples_for_early_stopping(y):
    X = np.random.default_rng(0).normal(size=(len(y), 4))
    classifier = CapsuleRegressionClassifier(early_stopping=True)
    with pytest.raises(ValueError, match="`early_stopping` holds out.*early_stopping=False"):
        classifier.fit(X, y)
    CapsuleRegressionClassifier().fit(X, y)


def test_dimensions_of_classes():
    X, y = load_iris(return_X_y=True)
    classifier = CapsuleRegressionClassifier(capsule_dim=[1, 3, 2]).fit(X, y)
    assert classifier.score(X, y) > 0.9
    assert classifier.model_.competition.mask.sum() == 6


def test_without_scikit_learn(tmp_path):
    """Everything else is there, and the classifier says in one line what to install."""
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError('none', name='sklearn')")
    code = (
        "import kcaps, kcaps.regression\n"
        "kcaps.regression.CapsuleRegression(3, 2)\n"
        "try:\n"
        "    kcaps.regression.CapsuleRegressionClassifier\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    import kcaps.regression.classifier\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert (
        result.stdout.splitlines()
        == [
            "`CapsuleRegressionClassifier` needs scikit-learn, of the extra kcaps[sklearn]. "
            "Install it: pip install scikit-learn"
        ]
        * 2
    )


def test_a_fit_that_is_refused_keeps_the_last_one():
    X, y = load_iris(return_X_y=True)
    classifier = CapsuleRegressionClassifier().fit(X, y)
    expected = classifier.predict_proba(X)
    with pytest.raises(ValueError, match="holds out a tenth"):
        classifier.set_params(early_stopping=True).fit(X[::10], y[::10])
    np.testing.assert_array_equal(classifier.predict_proba(X), expected)
