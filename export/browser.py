"""A headless Chromium, by its DevTools protocol, and a server of static files for it."""

import contextlib
import functools
import http.server
import itertools
import json
import os
import pathlib
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SECONDS = 60  # within which a browser answers
# The protocol's pipes are the descriptors 3 and 4 of the browser. This small program puts them
# there: Python's own way, a function between fork and exec, is unsafe beside other threads.
_STARTER = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
    *("--disable-extensions", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--no-default-browser-check", "--disable-dev-shm-usage"),
    "--mute-audio",
)


class BrowserError(RuntimeError):
    """A browser that does not start, or does not answer any more."""


class PageError(RuntimeError):
    """A page that fails in the browser."""


def find() -> str | None:
    """Returns the path of a Chromium or Chrome, or None where there is none to use."""
    if os.name != "posix":  # elsewhere, descriptors are not handed on so
        return None
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A page of a headless Chromium.

    Args:
        process: The process of the browser.
        reader, writer: Descriptors of the pipes from and to it.
    """

    def __init__(self, process: subprocess.Popen, reader: int, writer: int):
        self._process, self._reader, self._writer = process, reader, writer
        self._numbers, self._rest, self.events, self._session = itertools.count(1), b"", [], None
        self.version = self.send("Browser.getVersion")["product"]
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.send("Page.enable")

    def send(self, method: str, **params) -> dict:
        """Sends a command of the protocol; returns its result.

        Raises:
            BrowserError: if the browser refuses it, ends, or does not answer in time.
        """
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            os.write(self._writer, json.dumps(message).encode() + b"\0")
        except OSError as error:
            raise BrowserError(f"the browser has ended ({error.strerror})") from error
        deadline = time.monotonic() + _SECONDS
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                break
            self.events.append(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, deadline):
        while b"\0" not in self._rest:
            with selectors.DefaultSelector() as selector:
                selector.register(self._reader, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise BrowserError(f"the browser did not answer in {_SECONDS} s")
            part = os.read(self._reader, 1 << 20)
            if not part:
                raise BrowserError("the browser has ended")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, address: str) -> None:
        """Opens an address, and waits until its document is there."""
        self.send("Page.navigate", url=address)
        deadline = time.monotonic() + _SECONDS
        while self.evaluate("location.href != 'about:blank' && document.readyState") != "complete":
            if time.monotonic() > deadline:
                raise BrowserError(f"{address} was not there in {_SECONDS} s")
            time.sleep(0.02)

    def evaluate(self, expression: str):
        """Returns the value of an expression of JavaScript, or of the promise that it gives.

        Raises:
            PageError: if it fails.
        """
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            text = details.get("exception", {}).get("description") or details["text"]
            raise PageError(text.splitlines()[0][:300])
        return answer["result"].get("value")


@contextlib.contextmanager
def started(path: str) -> Iterator[Browser]:
    """Starts a browser with a fresh profile, and ends it.

    Args:
        path: Path of the program, as `find` returns it.

    Raises:
        BrowserError: if it does not start.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (theirs, writer), (reader, ours) = os.pipe(), os.pipe()
        # Chromium's sandbox refuses to run as root, as in a container.
        unsafe = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [sys.executable, "-c", _STARTER, str(theirs), str(ours), path]
        command += [*_OPTIONS, *unsafe, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command,
            pass_fds=(theirs, ours),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        try:
            browser = Browser(process, reader, writer)
            yield browser
        finally:
            os.close(writer)  # at which the browser ends
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(reader)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Says nothing of requests."""


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[str]:
    """Serves a folder to this machine alone; gives its address."""
    handler = functools.partial(_Handler, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
