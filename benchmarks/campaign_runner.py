"""Runs jobs as processes with deadlines, and keeps a row of each."""

import csv
import datetime
import os
import pathlib
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence

from campaign_jobs import Job

COLUMNS = ("name", "status", "seconds", "started", "result", "command")
DONE, CUT, FAILED, LEFT_OUT = "done", "cut", "failed", "left out"
GRACE = 6.0  # seconds from Ctrl-C, on which a recipe ends by itself, to the kill
SMALL = 2**20  # bytes of a file that goes into the archive
POLL = 0.05


class Campaign:
    """Runs the jobs of a list that are not done yet, until its time is over.

    A job whose time is over, its own or the campaign's, is interrupted as by Ctrl-C, and killed if
    that does not end it. What it trained stays in its folder, and it goes on when the campaign is
    started again. The table of jobs is written whenever one ends.

    Args:
        jobs: The jobs, those of most value first.
        output: Folder of the table `campaign.csv`, of logs, and of the jobs' own folders.
        seconds: Time from now on in which all must end.
        environment: Function of a job that returns the environment variables of its process.
        provenance: Values of further columns of each row.
        parallel: Jobs that run at once, unless they have the device for themselves.
        archive: Path of a `.tar.gz` of all small files, renewed whenever a job ends, or None.
        describe: Function of a job's folder that returns its result in a few words.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        output: pathlib.Path,
        seconds: float,
        *,
        environment: Callable[[Job], dict],
        provenance: dict[str, str],
        parallel: int = 3,
        archive: pathlib.Path | None = None,
        describe: Callable[[pathlib.Path], str] = lambda folder: "",
    ):
        self._jobs, self._output = list(jobs), output
        self._end = time.monotonic() + seconds
        self._environment, self._provenance = environment, provenance
        self._parallel, self._archive, self._describe = parallel, archive, describe
        self._logs = output / "logs"
        self._running = {}  # the job's name: job, process, start, deadline
        self.rows = {row["name"]: row for row in read(output / "campaign.csv")}

    def run(self) -> None:
        """Runs the jobs; returns when all have ended or the time is over."""
        self._logs.mkdir(parents=True, exist_ok=True)
        waiting = [job for job in self._jobs if not self._is_done(job)]
        try:
            while waiting or self._running:
                while waiting and self._is_settled(waiting[0]):
                    waiting.pop(0)
                self._collect()
                time.sleep(POLL)
        finally:
            self._stop(list(self._running))

    def _is_done(self, job):
        return self.rows.get(job.name, {}).get("status") == DONE

    def _is_settled(self, job):
        """Begins a job if its turn has come; returns whether there is no more to do for it."""
        if self._end - GRACE - time.monotonic() < job.least:
            return True
        if not self._may_begin(job):
            return False
        # Files that an earlier job writes are there by now.
        if missing := [name for name in job.needs if not os.path.exists(name)]:
            self._record(job, LEFT_OUT, f"needs {missing[0]}")
        else:
            self._begin(job)
        return True

    def _may_begin(self, job):
        running = [other for other, *_ in self._running.values()]
        if any(other.alone or other.folder == job.folder for other in running):
            return False
        return not running or (not job.alone and len(running) < self._parallel)

    def _begin(self, job):
        now = time.monotonic()
        deadline = min(now + job.seconds, self._end - GRACE)
        with (
            open(self._logs / f"{job.name}.out", "w") as out,
            open(self._logs / f"{job.name}.err", "w") as err,
        ):
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment(job),
                cwd=pathlib.Path(__file__).parents[1],
                start_new_session=True,  # so that its own processes end with it
            )
        self._running[job.name] = job, process, now, deadline
        print(f"{job.name}: begun, {deadline - now:.0f} s at most", flush=True)

    def _collect(self):
        """Records the jobs that have ended, and cuts those whose time is over."""
        late = []
        for name, (job, process, start, deadline) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[name]
                good = process.returncode == 0
                self._finish(job, start, DONE if good else FAILED, process.returncode)
            elif time.monotonic() > deadline:
                late.append(name)
        self._stop(late)

    def _stop(self, names):
        """Interrupts jobs, kills what is left of them after a while, and records them as cut."""
        stopped = [self._running.pop(name) for name in names]
        for _, process, *_ in stopped:
            _signal(process, signal.SIGINT)
        kill_at = time.monotonic() + GRACE
        for job, process, start, _ in stopped:
            try:
                process.wait(max(0, kill_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            _signal(process, signal.SIGKILL)  # its own processes, at least
            process.wait()
            self._finish(job, start, CUT, process.returncode)

    def _finish(self, job, start, status, code):
        """Records a job that has run."""
        result = self._describe(self._output / job.folder)
        if status == FAILED:
            lines = (self._logs / f"{job.name}.err").read_text(errors="replace").split("\n")
            lines = [line.strip() for line in lines if line.strip()]
            result = f"exit code {code}: {lines[-1][:300] if lines else 'nothing on stderr'}"
        self._record(job, status, result, start)

    def _record(self, job, status, result, start=None):
        """Puts the row of a job in its place, and writes all."""
        seconds = 0.0 if start is None else time.monotonic() - start
        started = datetime.datetime.now() - datetime.timedelta(seconds=seconds)
        self.rows[job.name] = {
            "name": job.name,
            "status": status,
            "seconds": f"{seconds:.1f}",
            "started": started.isoformat(" ", "seconds"),
            "result": result,
            "command": " ".join([f"KERAS_BACKEND={job.backend} python", *job.words]),
            **self._provenance,
        }
        print(f"{job.name}: {status} after {seconds:.1f} s  {result}", flush=True)
        write(self._output / "campaign.csv", list(self.rows.values()))
        if self._archive is not None:
            pack(self._output, self._archive)


def _signal(process, number):
    """Sends a signal to a process and those that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def read(path: pathlib.Path) -> list[dict]:
    """Returns the rows of a CSV file, none without a file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path: pathlib.Path, rows: Sequence[dict]) -> None:
    """Writes rows as CSV, aside and in place."""
    aside = path.with_suffix(".part")
    columns = dict.fromkeys((*COLUMNS, *(name for row in rows for name in row)))
    with open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(aside, path)


def pack(folder: pathlib.Path, archive: pathlib.Path) -> None:
    """Writes a `.tar.gz` of the small files of a folder, aside and in place."""
    aside = archive.with_name(f"{archive.name}.part")
    aside.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(aside, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            try:
                if name.parts[0] != "cache" and path.is_file() and path.stat().st_size < SMALL:
                    tar.add(path, f"{folder.name}/{name}")
            except OSError:
                continue  # a job that runs has removed it
    os.replace(aside, archive)
