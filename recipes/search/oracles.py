"""keras-tuner's four ways to choose trials, made to survive what happens to long searches."""

import functools
import math
import pathlib
import time
import warnings

import keras_tuner
from keras_tuner.src.tuners.gridsearch import LinkedList
from sklearn.exceptions import ConvergenceWarning

from harness import tables

COMPLETED, FAILED = "COMPLETED", "FAILED"
OBJECTIVE = "val_accuracy"


class _SurvivingOracle:
    """Mixin of oracles, with which a search survives where keras-tuner's own would not.

    - The first trial has the defaults of the space; keras-tuner draws it where it searches at
      random.
    - Files are replaced, not written into: a search that is killed has whole ones.
    - A reloaded search runs the trials again that had begun, and only those, wherever between
      two files it was killed.
    - A trial whose worker has not been heard of for `silence` seconds is given to another one.
      No worker is told that the search is over while trials are running: one might come back.
    - A failed trial never ends the search.
    """

    silence = math.inf

    def __init__(self, max_trials, seed, **options):
        super().__init__(
            objective=keras_tuner.Objective(OBJECTIVE, "max"),
            seed=seed + 1,  # keras-tuner draws another seed for 0
            max_consecutive_failed_trials=2**31,
            **options,
        )
        self.max_trials = max_trials
        self.verbose = 0
        self.is_over = False
        self.heard = {}  # when the worker of each running trial last gave a sign

    def populate_space(self, trial_id):
        response = super().populate_space(trial_id)
        if not self.start_order and response["values"]:
            space = self.get_space()
            chosen = {k: v for k, v in response["values"].items() if k.startswith("tuner/")}
            defaults = {hp.name: hp.default for hp in space.space if space.is_active(hp)}
            response["values"] = defaults | chosen  # Hyperband has values of its own
        return response

    @keras_tuner.synchronized
    def create_trial(self, tuner_id):
        trial = super().create_trial(tuner_id)
        if trial.status == "RUNNING":
            self.heard[trial.trial_id] = time.monotonic()
        elif trial.status == "STOPPED" and self.ongoing_trials:
            trial.status = "IDLE"
            self.tuner_ids.add(tuner_id)
        elif trial.status == "STOPPED":
            self.is_over = True
        return trial

    def get_trial(self, trial_id):
        self.heard[trial_id] = time.monotonic()
        return super().get_trial(trial_id)

    @keras_tuner.synchronized
    def end_trial(self, trial):
        if trial.trial_id in self.end_order:  # another worker ended it
            return
        known = self.trials[trial.trial_id]
        trial.hyperparameters = known.hyperparameters  # what a worker sends has been rounded
        super().end_trial(trial)
        if trial.trial_id in self._retry_queue:  # the chief was started anew meanwhile
            self._retry_queue.remove(trial.trial_id)
            self.save()
        print(describe(known), flush=True)

    @keras_tuner.synchronized
    def requeue_silent(self):
        """Takes the trials of silent workers from them."""
        for tuner_id, trial in list(self.ongoing_trials.items()):
            silent = time.monotonic() - self.heard[trial.trial_id]
            if silent > self.silence:
                del self.ongoing_trials[tuner_id]
                self.tuner_ids.discard(tuner_id)
                self._retry_queue.append(trial.trial_id)
                self.save()
                print(
                    f"{tuner_id} was not heard of for {silent:.0f} s: trial {trial.trial_id} is "
                    "run again",
                    flush=True,
                )

    def save(self):
        tables.write_json(pathlib.Path(self._get_oracle_fname()), self.get_state())

    def _save_trial(self, trial):
        folder = pathlib.Path(self._get_trial_dir(trial.trial_id))
        tables.write_json(folder / "trial.json", trial.get_state())

    def reload(self):
        super().reload()
        for trial_id, trial in sorted(self.trials.items(), key=lambda item: int(item[0])):
            for order in (self.start_order, self.end_order):
                if trial_id not in order and (
                    order is self.start_order or trial.status in (COMPLETED, FAILED)
                ):
                    order.append(trial_id)
        self._retry_queue = [trial for trial in self.start_order if trial not in self.end_order]
        self._retry_queue.reverse()  # trials are taken from its end


def failure(trial: keras_tuner.engine.trial.Trial) -> str:
    """Returns the last line of a failed trial's traceback, nothing where only its worker has it."""
    *_, line = (trial.message or "").strip().splitlines() or [""]
    return line.removeprefix("keras_tuner.src.errors.FailedTrialError: ")


def describe(trial: keras_tuner.engine.trial.Trial) -> str:
    """Returns one line on a trial that has ended."""
    if trial.status == FAILED:
        reason = failure(trial)
        return f"trial {trial.trial_id}: failed" + (f", {reason}" if reason else "")
    values = trial.hyperparameters.values.items()
    values = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values)
    return (
        f"trial {trial.trial_id}: validation accuracy {100 * trial.score:.2f} %, loss "
        f"{trial.metrics.get_last_value('val_loss'):.4f}, "
        f"{trial.metrics.get_last_value('seconds'):.0f} s; {', '.join(values)}"
    )


class GridOracle(_SurvivingOracle, keras_tuner.oracles.GridSearchOracle):
    """All combinations, the last hyper-parameters first."""

    def reload(self):
        super().reload()
        # keras-tuner keeps its place in the grid in memory only.
        compare = functools.cmp_to_key(self._compare)
        ids = sorted(
            self.trials, key=lambda trial_id: compare(self.trials[trial_id].hyperparameters.values)
        )
        self._ordered_ids = LinkedList()
        for trial_id in ids:
            self._ordered_ids.insert(trial_id)
        self._populate_next = ids


class RandomOracle(_SurvivingOracle, keras_tuner.oracles.RandomSearchOracle):
    """Combinations drawn at random."""


class BayesianOracle(_SurvivingOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """A quarter of the trials at random, the others where a Gaussian process hopes for most."""

    def __init__(self, max_trials, seed):
        super().__init__(max_trials, seed, num_initial_points=max(3, max_trials // 4))

    def populate_space(self, trial_id):
        with warnings.catch_warnings():
            # Hyper-parameters without effect have lengths at a bound, of which it warns.
            warnings.simplefilter("ignore", ConvergenceWarning)
            response = super().populate_space(trial_id)
        if response["values"] and self._duplicate(response["values"]):
            # The process does not learn of failed trials, and proposes them again.
            return self._random_populate_space()
        return response


class HyperbandOracle(_SurvivingOracle, keras_tuner.oracles.HyperbandOracle):
    """Many short trials, of which the best are run again with more epochs, `max_epochs` at most."""


ORACLES = {
    "grid": GridOracle,
    "random": RandomOracle,
    "hyperband": HyperbandOracle,
    "bayesian": BayesianOracle,
}
