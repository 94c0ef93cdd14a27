"""The page of a model in a real browser: drawing, pictures, sliders, and what can go wrong."""

import http.server
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from strokes import strokes_of

from export import browser, web_page, web_runtime
from export.images import of_run
from export.pictures import read_picture

WINNER = "document.querySelector('#result strong')?.textContent"


def test_images(folder):
    run = json.loads((folder / "run.json").read_text())
    found = of_run(run, folder=folder)
    return found.test[..., 0], found.labels


test_images.__test__ = False


def test_the_exporter_has_checked_the_page(digits):
    report = json.loads((digits / "web.json").read_text())
    assert report["is_checked_in_browser"] and "Chrome/" in report["browser"]
    rows = [row for row in report["comparison"] if row["batch"] == "browser, 20 images"]
    assert {row["output"] for row in rows} == {"class_lengths", "poses", "rebuilt_1", "class"}
    assert all(row["passed"] for row in rows)
    assert max(row["difference"] for row in rows) <= 1e-5
    assert report == json.loads((digits / "web" / "report.json").read_text())
    printed = (digits / "printed").read_text().splitlines()
    assert printed[-1] == f"show it by: python -m http.server -d {digits / 'web'}"
    files = {name: (digits / "web" / name).stat().st_size for name in report["sha256"]}
    assert report["bytes"] == sum(files.values()) < 60e6
    assert report["bytes_without_runtime"] < 5e6


def accuracy_of_strokes(page, folder, count=10):
    """Draws the lines of test images, so many of each class; returns the share that is right."""
    images, labels = test_images(folder)
    chosen = [i for label in range(10) for i in np.flatnonzero(labels == label)[:count]]
    right = 0
    for i in chosen:
        page.evaluate("document.getElementById('clear').click()")
        page.draw(strokes_of(images[i]))
        right += page.evaluate(WINNER) == str(labels[i])
    return right / len(chosen)


def test_strokes_of_digits(page, address, digits):
    page.open(address)
    assert accuracy_of_strokes(page, digits) >= 0.95  # 97 where it was measured


@pytest.mark.long
def test_strokes_of_mnist(page, made):
    pytest.importorskip("tensorflow_datasets")
    options = ("--network", "efficient", "--limit", 20000, "--epochs", 2)
    folder = made("mnist", *options)
    if of_run(json.loads((folder / "run.json").read_text())) is None:
        pytest.skip("MNIST is not there")
    with browser.served(folder / "web") as address:
        page.open(address)
        assert accuracy_of_strokes(page, folder) >= 0.95


def test_bars_follow_the_pen(page, address):
    page.open(address)
    page.click("#clear")
    assert page.text("result") == "Nothing yet." and page.text("time") == ""
    assert page.evaluate("document.getElementById('capsule-box').inert")
    one = [(0.5, 0.1 + 0.02 * i) for i in range(40)]
    left, top, width, height = page.place("#drawing")
    page.mouse("Pressed", left + one[0][0] * width, top + one[0][1] * height)
    for x, y in one[1:]:
        page.mouse("Moved", left + x * width, top + y * height)
    page.settle()
    assert page.evaluate(WINNER) == "1"  # before the pen is lifted
    values = page.evaluate(
        "[...document.querySelectorAll('#bars .value')].map((x) => x.textContent)"
    )
    assert len(values) == 10 and max(values) == values[1]
    assert " ms" in page.text("time")
    page.mouse("Released", left + one[-1][0] * width, top + one[-1][1] * height)
    assert max(page.pixels("seen")[::4]) > 100


def test_touch(page, address):
    page.tab.send("Emulation.setTouchEmulationEnabled", enabled=True)
    page.open(address)
    left, top, width, height = page.place("#drawing")
    before = page.evaluate("scrollY")
    for number in range(12):
        point = {"x": left + 0.5 * width, "y": top + (0.1 + 0.07 * number) * height}
        kind = "touchMove" if number else "touchStart"
        page.tab.send("Input.dispatchTouchEvent", type=kind, touchPoints=[point])
    page.tab.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.settle()
    assert page.evaluate(WINNER) == "1"
    assert page.evaluate("scrollY") == before, "the finger draws, and moves nothing else"


def move(page, number, share):
    """Moves a slider to a share of its range, as a reader's input does."""
    page.evaluate(
        f"((x) => {{ x.value = Number(x.min) + {share} * (x.max - x.min);"
        "x.dispatchEvent(new Event('input', { bubbles: true })); })"
        f"(document.querySelectorAll('#sliders input')[{number}])"
    )
    page.settle()


def test_sliders_change_what_is_rebuilt(page, address):
    page.open(address)
    before, values = page.pixels("together"), page.text("bars")
    seen = page.pixels("seen")
    move(page, 3, 0.0)
    low = page.pixels("together")
    move(page, 3, 1.0)
    assert page.pixels("together") != low != before
    assert page.pixels("seen") == seen and page.text("bars") == values
    page.click("#reset")
    assert page.pixels("together") == before
    assert page.evaluate("document.querySelectorAll('#sliders input').length") == 16


def test_the_capsule_of_another_class(page, address):
    page.open(address)
    before = page.pixels("together")
    page.evaluate(
        "((x) => { x.value = '7'; x.dispatchEvent(new Event('change')); })"
        "(document.getElementById('capsule'))"
    )
    page.settle()
    assert page.pixels("together") != before and page.text("together-caption") == "rebuilt: 7"
    page.click("#gallery button:nth-child(4)")
    assert page.evaluate("document.getElementById('capsule').value") == "7"


def test_pictures(page, address, digits, tmp_path, rng):
    """A picture is read as prediction in Python reads it; other files are told in one line."""
    page.open(address)
    path = tmp_path / "photo.png"
    pixels = rng.integers(256, size=(37, 53, 3)).astype("uint8")
    Image.fromarray(pixels).save(path)
    page.drop(path)
    page.wait("document.getElementById('drawing').getAttribute('aria-label') == 'photo.png'")
    page.settle()
    seen = np.reshape(page.pixels("seen"), (8, 8, 4))
    expected = read_picture(path, (8, 8), 1)[..., 0]
    assert np.abs(seen[..., 0] - expected.astype(int)).max() <= 1
    page.click("#invert")
    inverted = np.reshape(page.pixels("seen"), (8, 8, 4))
    np.testing.assert_array_equal(inverted[..., 0], 255 - seen[..., 0])
    wrong = tmp_path / "notes.txt"
    wrong.write_text("no picture")
    page.drop(wrong)
    message = page.wait("document.getElementById('message').textContent")
    assert message == "notes.txt is not a picture that this browser can read."
    assert page.pixels("seen") == inverted.ravel().tolist(), "the picture before stays"
    page.click("#gallery button")
    assert page.text("message") == ""


def test_a_file_is_chosen(page, address, tmp_path, digits):
    page.open(address)
    images, labels = test_images(digits)
    path = tmp_path / "digit.png"
    Image.fromarray(images[5]).save(path)
    document = page.tab.send("DOM.getDocument")["root"]["nodeId"]
    node = page.tab.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    page.tab.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    page.wait("document.getElementById('drawing').getAttribute('aria-label') == 'digit.png'")
    page.settle()
    np.testing.assert_array_equal(np.reshape(page.pixels("seen"), (8, 8, 4))[..., 0], images[5])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", None, "model.onnx could not be fetched (404)"),
        ("model.onnx", b"no model", "model.onnx does not load"),
        ("decoder.onnx", b"", "decoder.onnx does not load"),
        ("about.json", b"{", "JSON"),
        ("runtime/ort.wasm.bundle.min.mjs", None, "its runtime did not load"),
        ("runtime/ort-wasm-simd-threaded.wasm", b"\0asm", "model.onnx does not load"),
    ],
)
def test_what_does_not_load(page, digits, tmp_path, name, content, message):
    folder = tmp_path / "web"
    shutil.copytree(digits / "web", folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with browser.served(folder) as address:
        page.open(address, is_ready=False)
        page.wait("document.body.dataset.state == 'failed'")
        text = page.text("status")
    assert text.startswith("The network cannot be shown: ") and message in text and "\n" not in text
    assert page.evaluate("document.getElementById('status').getBoundingClientRect().height") > 0
    assert page.evaluate("document.getElementById('drawing').getBoundingClientRect().height") == 0


def test_offline_once_it_is_open(page, digits):
    with browser.served(digits / "web") as address:
        page.open(address)
    page.click("#clear")
    page.draw([[(0.5, 0.1 + 0.04 * i) for i in range(20)]])
    assert page.evaluate(WINNER) == "1" and page.text("message") == ""
    move(page, 0, 0.0)
    before = page.pixels("together")
    move(page, 0, 1.0)
    assert page.pixels("together") != before
    assert page.text("together-caption") == "rebuilt: 1"


def test_nothing_is_sent_anywhere(page, address):
    page.tab.send("Network.enable")
    page.open(address)
    page.draw([[(0.5, 0.1 + 0.04 * i) for i in range(20)]])
    sent = [x["params"]["request"] for x in page.tab.events if x["method"].endswith("WillBeSent")]
    assert len(sent) > 6 and {request["method"] for request in sent} == {"GET"}
    places = {request["url"].split(":")[0] for request in sent}
    assert all(x["url"].startswith((address, "data:")) for x in sent), places
    script = "const x = document.createElement('script'); x.textContent = 'window.hit = 1';"
    page.evaluate(f"(() => {{ {script} document.body.append(x); }})()")
    assert page.evaluate("window.hit") is None, "a script within the document runs"
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => '', (x) => x.message)")
    assert refused, "the page may connect to elsewhere"


class Shared(http.server.SimpleHTTPRequestHandler):
    """Files that pages of other hosts may read."""

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("changed", [None, web_runtime.MODULE, web_runtime.WASM])
def test_a_runtime_of_another_host(page, digits, runtime, tmp_path, monkeypatch, changed):
    """It is taken if it is the one that the exporter knows, to the last byte."""
    place, folder = tmp_path / "place", tmp_path / "web"
    shutil.copytree(runtime, place)
    if changed:
        with open(place / changed, "ab") as file:
            file.write(b"\n")
    monkeypatch.setattr(browser, "_Handler", Shared)
    with browser.served(place) as foreign:
        shutil.copytree(digits / "web", folder, ignore=shutil.ignore_patterns("runtime"))
        web_page.copy_sources(folder, foreign)
        about = json.loads((folder / "about.json").read_text())
        about["runtime"] = web_runtime.describe(foreign)
        (folder / "about.json").write_text(json.dumps(about))
        with browser.served(folder) as address:
            page.open(address, is_ready=changed is None)
            if changed is None:
                assert page.evaluate(WINNER) == "0"
            else:
                page.wait("document.body.dataset.state == 'failed'")
                assert "its runtime did not load" in page.text("status")


def test_by_keyboard(page, address):
    page.open(address)
    seen = []
    for _ in range(12):
        page.press("Tab")
        seen.append(
            page.evaluate(
                "((x) => x.id || x.getAttribute('aria-label') || x.tagName)(document.activeElement)"
            )
        )
    assert seen[:4] == ["clear", "choose", "invert", "Test image 1: 0"], seen
    name = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.press("Enter", "\r")
    page.settle()
    assert page.evaluate(WINNER) == name[-1]
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(style) == "solid", "the focus is seen"
    page.evaluate("document.querySelector('#sliders input').focus()")
    before = page.pixels("together")
    for _ in range(40):
        page.press("ArrowRight")
    page.settle()
    assert page.pixels("together") != before


def test_names_for_screen_readers(page, address):
    page.open(address)
    nodes = page.tab.send("Accessibility.getFullAXTree")["nodes"]
    roles = [(x["role"]["value"], x.get("name", {}).get("value", "")) for x in nodes]
    for role in ("button", "slider", "image", "combobox"):
        named = [name for kind, name in roles if kind == role]
        assert named and all(named), role
    assert ("slider", "Component 16") in roles and ("heading", "What the network finds") in roles
    assert page.evaluate("document.getElementById('result').getAttribute('aria-live')") == "polite"
    label = page.evaluate("document.getElementById('together').getAttribute('aria-label')")
    assert label.startswith("The picture rebuilt from the capsule of ")


def bytes_of(colour):
    """Returns red, green and blue of a colour as style sheets write it, `rgb(1, 2, 3)`."""
    return [int(x) for x in colour.split("(")[1].split(")")[0].split(",")[:3]]


def contrast(page, selector):
    """Returns the contrast of an element's text to the card that it is on."""
    colours = page.evaluate(
        f"((x) => [getComputedStyle(x).color, getComputedStyle(x.closest('section'))"
        f".backgroundColor])(document.querySelector('{selector}'))"
    )

    def light(text):
        parts = np.array(bytes_of(text)) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted(map(light, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(page, address, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.tab.send("Emulation.setEmulatedMedia", features=[feature])
    page.open(address)
    red = (
        page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
    )
    assert (int(red) < 60) == (scheme == "dark")
    for selector in ("#result strong", "#time", "#bars .name", "#bars .value", "figcaption", "h2"):
        assert contrast(page, selector) >= 4.5, selector  # what WCAG asks for


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_screens(page, address, width):
    page.tab.send(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=700,
        deviceScaleFactor=2,
        mobile=True,
    )
    page.open(address)
    page.click("#about summary")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    board = page.place("#drawing")
    assert board[2] > 200 and board[0] + board[2] <= width


def test_two_classes_in_a_picture(page, made):
    options = ("--network", "reference", "--routing", "l1", "--synthetic", "--limit", 60)
    folder = made("multi_mnist", *options, "--epochs", 1, "--batch-size", 16)
    report = json.loads((folder / "web.json").read_text())
    assert report["objects"] == 2 and report["is_checked_in_browser"]
    assert {"rebuilt_1", "rebuilt_2"} <= {row["output"] for row in report["comparison"]}
    with browser.served(folder / "web") as address:
        page.open(address)
        page.draw([[(0.3, 0.1 + 0.04 * i) for i in range(20)]])
        names = page.evaluate(
            "[...document.querySelectorAll('#result strong')].map(x => x.textContent)"
        )
        assert len(set(names)) == 2
        assert page.text("together-caption") == f"rebuilt: {names[0]} and {names[1]}"
        colours = np.reshape(page.pixels("together"), (-1, 4))[:, :3]
        assert (colours[:, 0] != colours[:, 1]).any(), "the two are in colours"
        page.evaluate(
            "((x) => { x.value = 'found1'; x.dispatchEvent(new Event('change')); })"
            "(document.getElementById('capsule'))"
        )
        page.settle()
        move(page, 0, 0.0)
        before = page.pixels("together")
        move(page, 0, 1.0)
        assert page.pixels("together") != before
