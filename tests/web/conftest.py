"""Pages of models, the runtime that they need, and a browser in which they are tested."""

import pathlib
import sys
import time

import pytest

from export import browser, web_runtime
from programs import ROOT, python

sys.path.insert(0, str(pathlib.Path(__file__).parent))


class Page:
    """A page in a browser, with a reader's mouse, keyboard and files."""

    def __init__(self, tab):
        self.tab = tab

    def open(self, address, is_ready=True):
        self.tab.open(address)
        if is_ready:
            self.evaluate('import("./page.js").then((x) => x.ready)')
            self.settle()

    def evaluate(self, expression):
        return self.tab.evaluate(expression)

    def wait(self, expression, seconds=30):
        """Waits until an expression is true; returns its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"{expression} did not become true"
            time.sleep(0.02)
        return value

    def settle(self):
        """Waits until what the reader did has been computed and shown."""
        self.evaluate(
            "new Promise((go) => requestAnimationFrame(() => requestAnimationFrame("
            "() => setTimeout(go, 30))))"
        )
        self.wait("document.body.ariaBusy == 'false'")

    def texts(self, selector):
        """Returns the texts of all elements of a selector."""
        return self.evaluate(
            f"[...document.querySelectorAll('{selector}')].map((x) => x.textContent)"
        )

    def text(self, name):
        return self.evaluate(f"document.getElementById('{name}').textContent.trim()")

    def pixels(self, name):
        """Returns the bytes of a canvas."""
        return self.evaluate(
            f"((x) => [...x.getContext('2d').getImageData(0, 0, x.width, x.height).data])"
            f"(document.getElementById('{name}'))"
        )

    def place(self, selector):
        """Brings an element into view; returns its left, top, width and height."""
        return self.evaluate(
            "((x) => { x.scrollIntoView({ block: 'center' });"
            "const place = x.getBoundingClientRect();"
            "return [place.x, place.y, place.width, place.height]; })"
            f"(document.querySelector('{selector}'))"
        )

    def mouse(self, kind, x, y):
        self.tab.send(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button="left",
            buttons=0 if kind == "Released" else 1,
            clickCount=1,
        )

    def click(self, selector):
        left, top, width, height = self.place(selector)
        self.mouse("Pressed", left + width / 2, top + height / 2)
        self.mouse("Released", left + width / 2, top + height / 2)
        self.settle()

    def draw(self, strokes):
        """Draws strokes, whose points are shares of the board's width and height."""
        left, top, width, height = self.place("#drawing")
        for stroke in strokes:
            points = [(left + x * width, top + y * height) for x, y in stroke]
            for number, point in enumerate(points):
                self.mouse("Moved" if number else "Pressed", *point)
            self.mouse("Released", *points[-1])
        self.settle()

    def press(self, key, text=""):
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, " ": 32}
        options = {"key": key, "code": "Space" if key == " " else key}
        options |= {"windowsVirtualKeyCode": codes[key]}
        self.tab.send("Input.dispatchKeyEvent", type="keyDown", text=text, **options)
        self.tab.send("Input.dispatchKeyEvent", type="keyUp", **options)

    def drop(self, path):
        """Drops a file on the board."""
        left, top, width, height = self.place("#drawing")
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.tab.send(
                "Input.dispatchDragEvent",
                type=kind,
                x=left + width / 2,
                y=top + height / 2,
                data=data,
            )


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """Folder of the runtime's files, as npm fetches them."""
    folder = tmp_path_factory.mktemp("npm") / "runtime"
    web_runtime.copy(None, folder)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory, runtime):
    """Function that trains a recipe and exports its page: `(recipe, *arguments) -> folder`.

    What the exporter printed is in the folder's file `printed`.
    """

    def make(recipe, *arguments):
        folder = tmp_path_factory.mktemp(recipe) / "ckpt"
        program = ROOT / "recipes" / f"{recipe}.py"
        trained = python(program, *arguments, "--output", folder, cwd=folder.parent)
        assert trained.returncode == 0, trained.stderr
        options = ("--model", folder, "--runtime", runtime)
        exported = python("-m", "export.web", *options, cwd=ROOT)
        assert exported.returncode == 0, exported.stdout + exported.stderr
        (folder / "printed").write_text(exported.stdout, encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def digits(made):
    """A checkpoint of the digits recipe with its page."""
    return made("digits", "--epochs", 20)


@pytest.fixture(scope="session")
def address(digits):
    with browser.served(digits / "web") as served:
        yield served


@pytest.fixture(scope="session")
def program():
    path = browser.find()
    assert path is not None, "these tests need Chromium or Chrome"
    return path


@pytest.fixture
def page(program):
    with browser.started(program) as tab:
        tab.send(
            "Emulation.setDeviceMetricsOverride",
            width=1200,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        yield Page(tab)
