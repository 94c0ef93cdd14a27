"""A process that holds the rows of one backend, and runs one when it is asked to."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile

from export.command import fail

PROGRAM = pathlib.Path(__file__).with_name("peers.py")


class Worker:
    """The process of a backend; requests and answers are lines of JSON in its pipes.

    Used in a `with` statement, at whose end the process ends.

    Args:
        backend: Keras' backend there.
        python: Interpreter of an environment that has it.
        words: Command line of this program, which the process reads, too.
    """

    def __init__(self, backend: str, python: str, words: list[str]):
        self.backend = backend
        self._messages = tempfile.TemporaryFile("w+")
        environment = os.environ | {
            "KERAS_BACKEND": backend,
            # Several processes share a GPU.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONPATH": os.pathsep.join(
                [str(PROGRAM.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        try:
            self._process = subprocess.Popen(
                [python, str(PROGRAM), *words, "--worker", backend],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                text=True,
            )
        except OSError as error:
            self._messages.close()
            fail(f"{python} cannot be run: {error.strerror}")
        self.about = self._answer()

    def ask(self, **request) -> dict:
        """Returns the answer to a request.

        Raises:
            SystemExit: if the process has ended or cannot do it; one line on stderr tells why.
        """
        with contextlib.suppress(BrokenPipeError):  # The answer tells.
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._messages.seek(0)
            last = self._messages.read().strip().split("\n")[-1].removeprefix("error: ")
            self.close()
            fail(f"the process of {self.backend} ended with exit code {code}: {last}")
        answer = json.loads(line)
        if "error" in answer:
            fail(f"{self.backend}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process, which may finish what it does."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # It reads no further request.
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._messages.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
