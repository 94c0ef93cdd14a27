"""The campaign runs its jobs within their time, keeps their rows and goes on."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Has tests import the modules of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def rows_of(folder):
    with open(folder / "campaign.csv", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def job(name, code, folder=None, **options):
    """Returns a job that runs a line of Python."""
    from campaign_jobs import Job

    return Job(name, ("-c", code), folder or name, **{"least": 0.0} | options)


def run(folder, jobs, seconds=30.0, **options):
    """Runs a campaign; returns the rows of its table."""
    from campaign_runner import Campaign

    options = {"environment": lambda job: dict(os.environ), "provenance": {"gpu": "none"}} | options
    Campaign(jobs, folder, seconds, **options).run()
    return rows_of(folder)


def writes(path, text):
    """Returns a line of Python that adds a text to a file."""
    return f"open({os.fspath(path)!r}, 'a').write({text!r})"


def test_a_failing_job_does_not_stop_the_others(benchmarks, tmp_path):
    jobs = [
        job("fails", "import sys; sys.exit('error: no luck')"),
        job("works", writes(tmp_path / "trace", "w")),
        job("lacks", writes(tmp_path / "trace", "l"), needs=(str(tmp_path / "no.npz"),)),
    ]
    rows = run(tmp_path / "out", jobs, archive=tmp_path / "small.tar.gz")
    assert {name: row["status"] for name, row in rows.items()} == {
        "lacks": "left out",
        "fails": "failed",
        "works": "done",
    }
    assert rows["fails"]["result"] == "exit code 1: error: no luck"
    assert rows["lacks"]["result"].endswith("no.npz") and rows["works"]["gpu"] == "none"
    assert (tmp_path / "trace").read_text() == "w"
    with tarfile.open(tmp_path / "small.tar.gz") as tar:
        assert {"out/campaign.csv", "out/logs/fails.err"} <= set(tar.getnames())


def test_a_second_start_runs_what_is_not_done(benchmarks, tmp_path):
    jobs = [
        job("done", writes(tmp_path / "trace", "d")),
        job("fails", writes(tmp_path / "trace", "f") + "; 1 / 0"),
    ]
    run(tmp_path / "out", jobs)
    rows = run(tmp_path / "out", jobs)
    assert sorted((tmp_path / "trace").read_text()) == ["d", "f", "f"]
    assert rows["done"]["status"] == "done" and "ZeroDivisionError" in rows["fails"]["result"]


@pytest.mark.long
def test_a_late_job_is_cut(benchmarks, tmp_path, monkeypatch):
    """It ends by Ctrl-C, as a recipe does, or is killed; others have their time."""
    monkeypatch.setattr("campaign_runner.GRACE", 2.0)
    wait = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    "
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    jobs = [
        # A busy machine takes seconds to start Python.
        job("polite", wait + writes(tmp_path / "trace", "p"), seconds=14.0),
        job("stubborn", stubborn, seconds=14.0),
        job("short", writes(tmp_path / "trace", "s")),
        job("too long", writes(tmp_path / "trace", "t"), least=70.0),
    ]
    start = time.monotonic()
    rows = run(tmp_path / "out", jobs, seconds=60.0)
    assert time.monotonic() - start < 50  # and not the 60 seconds for which the jobs wait
    states = {"polite": "cut", "stubborn": "cut", "short": "done"}
    assert {name: row["status"] for name, row in rows.items()} == states
    assert sorted((tmp_path / "trace").read_text()) == ["p", "s"]


def test_the_campaign_ends_in_time(benchmarks, tmp_path, monkeypatch):
    monkeypatch.setattr("campaign_runner.GRACE", 1.0)
    start = time.monotonic()
    rows = run(tmp_path / "out", [job("endless", "while True: pass")], seconds=3.0)
    assert time.monotonic() - start < 20 and rows["endless"]["status"] == "cut"


def test_a_job_that_measures_time_runs_alone(benchmarks, tmp_path):
    trace = tmp_path / "trace"
    code = (
        f"{writes(trace, '({0}')}; import time; time.sleep(0.3)\n{writes(trace, '{0})')}"  # spans
    )
    jobs = [
        job("a", code.replace("{0}", "a")),
        job("b", code.replace("{0}", "b"), alone=True),
        job("c", code.replace("{0}", "c"), folder="shared"),
        job("d", code.replace("{0}", "d"), folder="shared"),
    ]
    run(tmp_path / "out", jobs)
    assert trace.read_text() == "(aa)(bb)(cc)(dd)"
    trace.unlink()
    run(tmp_path / "again", [jobs[0], jobs[2]])
    assert set(trace.read_text()[:4]) == set("(a(c")


def campaign(*words):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("KERAS_BACKEND", None)
    command = [sys.executable, BENCHMARKS / "campaign.py", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.long
def test_a_quick_campaign(tmp_path):
    """Two real jobs, and the time of a second start, which has nothing to do."""
    words = ["--quick", "--minutes", 3, "--output", tmp_path, "--commit", "abc"]
    words += ["--only", "bench-jax", "inference"]
    result = campaign(*words)
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path)
    assert rows["bench-jax"]["status"] == "done", rows["bench-jax"]["result"]
    assert rows["bench-jax"]["commit"] == "abc" and rows["bench-jax"]["keras"] == keras.__version__
    assert rows["inference-jax"]["status"] == "left out"
    with open(tmp_path / "bench-jax/bench.csv", newline="") as file:
        numbers = list(csv.DictReader(file))
    steps = {row["row"]: row for row in numbers if row["section"] == "step"}
    assert {"convolutions", "textbook", "l2, joint", "l2, alternating"} == set(steps)
    assert (
        float(steps["l2, joint"]["of_textbook"]) > 0
        and steps["textbook"]["of_textbook"] == "1.0000"
    )
    again = campaign(*words, "--list")
    assert again.returncode == 0 and "bench-jax benchmarks/bench.py" in again.stdout
    again = campaign(*words)
    assert again.returncode == 0 and "bench-jax: begun" not in again.stdout


def test_a_job_that_does_not_exist_is_refused():
    result = campaign("--only", "nothing")
    assert result.returncode == 2 and result.stderr.count("\n") == 1


def test_the_jobs_have_names_of_their_own(benchmarks):
    from campaign_jobs import Plan

    for quick in (False, True):
        plan = Plan("out", "data", None, "mixed_bfloat16", None, 3, quick)
        jobs = plan.jobs()
        assert len({job.name for job in jobs}) == len(jobs)
        assert all((ROOT / job.words[0]).exists() for job in jobs)
        assert sum(job.seconds for job in jobs if job.alone) < 15 * 60


@pytest.mark.compiled
@pytest.mark.parametrize("training", (True, False))
def test_votes_of_either_kind_are_timed(benchmarks, rng, monkeypatch, training):
    from stored_votes import ForcedVotes

    from kcaps.routing import DynamicRouting, StoredVotes, Votes, stored_votes

    built = []

    def note(cls):
        def make(*args):
            built.append(cls)
            return cls(*args)

        return make

    monkeypatch.setattr(stored_votes, "prefers_stored_votes", stored_votes.prefers_stored_votes)
    for cls in (Votes, StoredVotes):
        monkeypatch.setattr(stored_votes, cls.__name__, note(cls))
    capsules = rng.normal(size=(3, 12, 8)).astype("float32")
    kernel = rng.normal(scale=0.5, size=(12, 8, 5, 4)).astype("float32")
    factored, stored, free = (
        keras.ops.convert_to_numpy(routing(capsules, kernel, training=training))
        for routing in (ForcedVotes(False), ForcedVotes(True), DynamicRouting())
    )
    np.testing.assert_allclose(stored, factored, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(free, factored, rtol=1e-5, atol=1e-6)
    # The library's own rule stays for other routings.
    usual = Votes if keras.backend.backend() == "tensorflow" else StoredVotes
    assert built == [Votes, StoredVotes, usual]


def test_a_job_may_need_what_another_makes(benchmarks, tmp_path):
    made = tmp_path / "made"
    jobs = [
        job("makes", f"import time; time.sleep(0.5); {writes(made, 'm')}"),
        job("needs", writes(made, "n"), needs=(str(made),), alone=True),
    ]
    rows = run(tmp_path / "out", jobs)
    assert rows["needs"]["status"] == "done" and made.read_text() == "mn"


@pytest.mark.compiled
@pytest.mark.parametrize("precision", ("float16", "bfloat16"))
def test_a_model_in_half_precision_has_the_same_weights(benchmarks, rng, precision):
    from device_inference import with_precision

    from kcaps.models import capsnet

    sizes = {"filters": 4, "num_primary_capsules": 2, "decoder_units": None}
    model = capsnet((28, 28, 1), 3, **sizes)
    half = with_precision(model, precision)
    assert {str(variable.dtype) for variable in half.weights} == {precision}
    images = rng.integers(256, size=(4, 28, 28, 1)).astype("float32")
    lengths = [keras.ops.convert_to_numpy(net(images)).astype("float32") for net in (model, half)]
    np.testing.assert_allclose(*lengths, atol=0.02)
    assert np.abs(lengths[0]).max() > 0.02


def test_termination_ends_the_jobs(tmp_path):
    """A job is a session of its own, and would outlive a campaign that just ends."""
    words = ["--quick", "--output", tmp_path, "--only", "bench-jax"]
    command = [sys.executable, BENCHMARKS / "campaign.py", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert "bench-jax: begun" in line
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert rows_of(tmp_path)["bench-jax"]["status"] == "cut"
