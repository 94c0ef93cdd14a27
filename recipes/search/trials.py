"""A search by keras-tuner: alone, or as the chief or a worker of several processes."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent import futures

import grpc
import keras
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.src import config, protos
from keras_tuner.src.distribute import oracle_chief, oracle_client

from export.command import fail
from search.oracles import describe

ADDRESS = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
TUNER_ID = "KERASTUNER_TUNER_ID"
POLL = 0.5  # seconds between two questions to an oracle that has nothing to do, or of a chief
FAREWELL = 10  # seconds in which a chief that is ready tells its workers so


def set_up() -> None:
    """Sets in this process what keras-tuner has no arguments for; call it before a search."""
    oracle_client.TIMEOUT = 600  # seconds for which a worker waits for its chief
    config.DEBUG = False  # a failed trial is told of in one line, without its traceback
    if chief := os.environ.get(ADDRESS[0]):
        # Without this, proxies of the web would be asked for the way to the chief.
        os.environ.setdefault("no_grpc_proxy", chief)


def read_role() -> str:
    """Returns `"alone"`, `"chief"` or `"worker"`, by keras-tuner's environment variables."""
    given = [name for name in (*ADDRESS, TUNER_ID) if os.environ.get(name)]
    if not any(name in ADDRESS for name in given):
        return "alone"
    missing = [name for name in (*ADDRESS, TUNER_ID) if name not in given]
    if missing:
        fail(f"a search in several processes needs {', '.join(missing)} in the environment too")
    return "chief" if "chief" in os.environ[TUNER_ID] else "worker"


class TrialSearch(BaseTuner):
    """Runs trials, or serves them to workers.

    A trial is trained `executions` times, with seeds that follow each other, and has the mean of
    the results. Nothing but numbers is kept of it.

    Args:
        oracle: One of `oracles.ORACLES`.
        hypermodel: Space of models.
        folder: Folder of the search; goes on with what is in it.
        executions: How often each trial is trained.
        seed: Seed of the first execution.
        silence: Seconds without a sign of life after which a worker counts as dead.
    """

    def __init__(self, oracle, hypermodel, folder, executions=1, seed=0, silence=60.0):
        self.executions, self.seed, self.silence = executions, seed, silence
        oracle.silence = silence
        folder = folder.resolve()
        with contextlib.redirect_stdout(None):  # keras-tuner tells what it reloads
            super().__init__(
                oracle, hypermodel, directory=str(folder.parent), project_name=folder.name
            )

    def run_trial(self, trial):
        with self._signs_of_life(trial):
            return [self._execute(trial, number) for number in range(self.executions)]

    def _execute(self, trial, number):
        started = time.perf_counter()
        seed = self.seed + number
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        model = self.hypermodel.build(trial.hyperparameters)
        results = self.hypermodel.fit(trial.hyperparameters, model, seed=seed)
        return {**results, "seconds": (time.perf_counter() - started) * self.executions}

    @contextlib.contextmanager
    def _signs_of_life(self, trial):
        """Context of a trial, in which a worker asks the chief for it time and again."""
        if not self._is_worker():
            yield
            return
        ended = threading.Event()

        def tell():
            while not ended.wait(self.silence / 6):
                with contextlib.suppress(grpc.RpcError):  # the chief is being started anew
                    self.oracle.get_trial(trial.trial_id)

        threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def pre_create_trial(self):
        if self._is_worker():
            time.sleep(POLL)

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        if self._is_worker():
            ended = self.oracle.get_trial(trial.trial_id)
            ended.message = trial.message  # the chief has no message of it
            print(describe(ended), flush=True)

    def work(self, check: Callable[[], None]) -> None:
        """Runs trials of a chief until it has no more; `check` is called when there is a chief."""
        try:
            self.oracle.get_space()  # waits for the chief, which has written its study by then
            check()
            self.search()
        except grpc.RpcError as error:
            fail(f"the chief does not answer any more: {error.code().name}", code=1)
        print("worker: no more trials")

    def serve(self) -> None:
        """Serves trials to workers until the search is over.

        A worker that dies is not waited for. Without any, the chief waits for one to come.
        """
        ip, port = (os.environ[name] for name in ADDRESS)
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)]
        )
        protos.get_service_grpc().add_OracleServicer_to_server(
            oracle_chief.OracleServicer(self.oracle), server
        )
        try:
            server.add_insecure_port(f"{ip}:{port}")
        except RuntimeError:
            fail(f"the chief cannot listen on {ip}:{port}: give another port, or end its user")
        self.save()
        server.start()
        print(f"chief: serving trials on {ip}:{port}", flush=True)
        while not self.is_over():
            time.sleep(POLL)
            self.oracle.requeue_silent()
        until = time.monotonic() + FAREWELL
        while self.oracle.tuner_ids and time.monotonic() < until:
            time.sleep(POLL)
        server.stop(grace=POLL).wait()

    def is_over(self) -> bool:
        """Returns whether all trials have ended."""
        oracle = self.oracle
        all_ended = len(oracle.end_order) >= oracle.max_trials
        return not oracle.ongoing_trials and (oracle.is_over or all_ended)

    def save(self):
        if not self._is_worker():
            self.oracle.save()

    def reload(self):
        if not self._is_worker():
            self.oracle.reload()

    def _get_tuner_fname(self):
        # Its presence tells keras-tuner that there is a search to go on with.
        return self.oracle._get_oracle_fname()
