"""Pages of models: what is in the folder, what is refused, and what is measured of the images."""

import base64
import hashlib
import html.parser
import io
import json
import os
import re
import shutil
import sys
import tarfile
import urllib.request

import keras
import numpy as np
import onnxruntime
import pytest

import export.web
from export import browser, checkpoint, images, overlapping, web_page, web_runtime
from export.about import About
from export.errors import ParityError
from export.files import file_hash
from export.images import Images
from export.web import export_web
from exporting import contents, ended, onnx_outputs, small
from kcaps.layers import CapsuleMask
from kcaps.models import deep_capsnet, efficient_capsnet

FILES = {"index.html", "page.js", "style.css", "runtime-licence.txt"}
FILES |= {"about.json", "images.bin", "report.json", "model.onnx", "runtime"}


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A folder of two files in the place of the runtime's, which are known by their hashes."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in web_runtime.SHA256:
        (folder / name).write_bytes(name.encode())
    hashes = {name: file_hash(folder / name) for name in web_runtime.SHA256}
    monkeypatch.setattr(web_runtime, "SHA256", hashes)
    monkeypatch.setattr(browser, "find", lambda: None)
    return folder.parent


def about_of(folder):
    return json.loads((folder / "about.json").read_text())


def test_the_files_of_a_page(tmp_path, runtime, rng):
    model, path = small("l1"), tmp_path / "web"
    x = rng.integers(256, size=(30, 17, 18, 1)).astype("uint8")
    labels = np.arange(30) % 3
    report = export_web(
        model, path, labels=["a", "b", "c"], test_images=(x, labels), runtime=runtime
    )
    assert {file.name for file in path.iterdir()} == FILES | {"decoder.onnx"}
    assert {file.name for file in (path / "runtime").iterdir()} == set(web_runtime.SHA256)
    x = x.astype("float32")
    outputs = onnx_outputs(path / "model.onnx", x)
    assert set(outputs) == {"class_lengths", "poses"}
    np.testing.assert_allclose(outputs["class_lengths"], model.predict(x, verbose=0), atol=1e-5)
    masked = np.asarray(CapsuleMask()(outputs["poses"]))
    session = onnxruntime.InferenceSession(path / "decoder.onnx")
    rebuilt = session.run(["reconstruction"], {"masked_poses": masked})[0]
    np.testing.assert_allclose(rebuilt, model.decoder.predict(masked, verbose=0), atol=1e-3)
    assert report.largest_difference <= 1e-5
    about = about_of(path)
    assert about["input_shape"] == [17, 18, 1] and about["input_dtype"] == "float32"
    assert about["labels"] == ["a", "b", "c"] and about["num_classes"] == 3
    assert about["has_decoder"] and about["pose_dim"] == 16 and about["objects"] == 1
    assert about["pictures"] == {
        "count": 20,
        "shown": True,
        "labels": [[i % 3] for i in range(20)],
    }
    shown = np.frombuffer((path / "images.bin").read_bytes(), "uint8").reshape(20, 17, 18, 1)
    np.testing.assert_array_equal(shown, x[:20])
    facts = dict(about["facts"])
    assert facts["SHA-256 of model.onnx"] == file_hash(path / "model.onnx")
    right = np.mean(outputs["class_lengths"].argmax(-1) == labels)
    assert facts["Test accuracy"] == f"{100 * right:.2f} %"
    assert json.loads((tmp_path / "web.json").read_text()) == json.loads(
        (path / "report.json").read_text()
    )


def test_a_checkpoint_without_a_browser(checkpoint_copy, runtime, monkeypatch, capsys):
    """The program, whose last lines tell how to see the page and that it was not opened."""
    arguments = ["--model", str(checkpoint_copy), "--runtime", str(runtime)]
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    export.web.main()
    told = capsys.readouterr()
    reason = "NOT CHECKED in a browser: no Chromium or Chrome was found"
    assert told.out.splitlines()[-1] == (
        f"show it by: python -m http.server -d {checkpoint_copy / 'web'} ({reason})"
    )
    report = json.loads((checkpoint_copy / "web.json").read_text())
    assert report["is_checked_in_browser"] is False and report["browser"] == reason
    assert report["format"] == "web" and report["largest_difference"] <= 1e-5
    assert report["checkpoint_sha256"] == checkpoint.load(checkpoint_copy).sha256
    sizes = {name: (checkpoint_copy / "web" / name).stat().st_size for name in report["sha256"]}
    assert report["bytes"] == sum(sizes.values())
    assert report["bytes_without_runtime"] == sum(
        size for name, size in sizes.items() if not name.startswith("runtime/")
    )
    facts = dict(about_of(checkpoint_copy / "web")["facts"])
    recorded = json.loads((checkpoint_copy / "report.json").read_text())["test_accuracy"]
    assert facts["Test accuracy"] == f"{100 * recorded:.2f} %" and facts["Recipe"] == "digits"
    run = json.loads((checkpoint_copy / "run.json").read_text())
    assert facts.get("Trained at commit", "") == run["commit"]
    before = contents(checkpoint_copy)
    assert "--overwrite" in ended(monkeypatch, capsys, export.web.main, 2, *arguments)
    assert contents(checkpoint_copy) == before
    place = checkpoint_copy / "my page"
    arguments += ["--output", str(place), "--no-browser"]
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    export.web.main()
    told = capsys.readouterr().out.splitlines()[-1]
    assert "NOT CHECKED in a browser: --no-browser" in told
    assert f"-d '{place}' " in told, "a shell reads it as one word"


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_document_runs_nothing_but_its_own_files():
    parser = Tags()
    parser.feed((web_page.SOURCES / "index.html").read_text())
    policies = [
        x["content"] for _, x in parser.found if x.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1 and "unsafe-inline" not in policies[0]
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'" and rules["style-src"] == "'self'"
    for tag, attributes in parser.found:
        assert not any(name == "style" or name.startswith("on") for name in attributes), tag
        assert tag != "style" and (tag != "script" or attributes["src"] == "page.js")
    texts = [path.read_text() for path in web_page.SOURCES.iterdir() if path.suffix != ".txt"]
    assert not any(re.search(r"https?://|//[a-z]+\.|innerHTML|eval\(", text) for text in texts)
    # The script finds each of its elements by an id.
    ids = {attributes["id"] for _, attributes in parser.found if "id" in attributes}
    script = (web_page.SOURCES / "page.js").read_text()
    used = re.findall(r'parts(?:\.(\w+)|\["([\w-]+)"\])', script)
    assert used and {one or other for one, other in used} <= ids
    preloaded = {x["href"] for tag, x in parser.found if x.get("href", "").startswith("runtime/")}
    assert preloaded == {f"runtime/{name}" for name in web_runtime.SHA256}


def test_a_network_without_a_decoder(tmp_path, runtime, rng):
    model = deep_capsnet((16, 16, 3), 4, widths=(4, 4, 4))
    x = rng.integers(256, size=(5, 16, 16, 3)).astype("uint8")
    report = export_web(model, tmp_path / "web", test_images=x, runtime=runtime)
    about = about_of(tmp_path / "web")
    assert not about["has_decoder"] and about["drawing"] is None
    assert about["labels"] == ["0", "1", "2", "3"] and about["pictures"]["labels"] is None
    assert not (tmp_path / "web" / "decoder.onnx").exists()
    assert "reconstruction" not in {row.output for row in report.rows}


@pytest.mark.parametrize("units", [1, 3])
def test_a_network_of_keras_alone(tmp_path, runtime, units):
    image = keras.Input((8, 9, 1))
    activation = "sigmoid" if units == 1 else "softmax"
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.Dense(units, activation, name="sure")(keras.layers.Flatten()(x))
    path = tmp_path / "web"
    export_web(keras.Model(image, x), path, input_range=(0, 255), runtime=runtime)
    about = about_of(path)
    assert about["class_output"] == "sure" and about["pose_dim"] is None
    assert len(about["labels"]) == max(2, units) and about["spread"] is None
    # Random pixels are compared, and nobody is to look at them.
    assert about["pictures"]["shown"] is False and about["drawing"]["box"] is None


@pytest.mark.long
def test_half_precision(tmp_path, runtime):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = efficient_capsnet((16, 16, 1), 3, decoder_units=(8,))
    report = export_web(model, tmp_path / "web", runtime=runtime)
    assert about_of(tmp_path / "web")["has_decoder"]
    assert any(step["step"] == "float32" for step in report.steps)


def computed(folder, count):
    """What a browser would answer, computed by the files of a page."""
    about = about_of(folder)
    pixels = np.frombuffer((folder / "images.bin").read_bytes(), "uint8")
    x = pixels.reshape(count, *about["input_shape"]).astype("float32")
    outputs = onnx_outputs(folder / "model.onnx", x)
    masked = np.asarray(CapsuleMask()(outputs["poses"]))
    session = onnxruntime.InferenceSession(folder / "decoder.onnx")
    outputs["rebuilt_1"] = session.run(["reconstruction"], {"masked_poses": masked})[0]
    return [
        {
            "outputs": {name: value[i].ravel().tolist() for name, value in outputs.items()},
            "milliseconds": 1.0,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(
    "name",
    [
        *(None, "rebuilt_1"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("poses", "class_lengths")),
    ],
)
def test_a_page_that_computes_something_else(tmp_path, runtime, monkeypatch, rng, name):
    def answers(folder, program, count):
        found = computed(folder, count)
        if name:
            found[3]["outputs"][name][1] += 0.3
        return "Chrome/0", found

    monkeypatch.setattr(browser, "find", lambda: "chromium")
    monkeypatch.setattr(web_page, "answers", answers)
    x, path = rng.integers(256, size=(6, 17, 18, 1)).astype("uint8"), tmp_path / "web"
    if name is None:
        report = export_web(small("l1"), path, test_images=x, runtime=runtime)
        rows = {row.output: row for row in report.rows if row.batch == "browser, 6 images"}
        assert set(rows) == {"class_lengths", "poses", "rebuilt_1", "class"}
        assert report.about["is_checked_in_browser"]
        assert report.about["browser"].startswith("Chrome/0, 6 images of the page, ")
        return
    with pytest.raises(ParityError, match=f"{name} differs from Keras"):
        export_web(small("l1"), path, test_images=x, runtime=runtime)
    assert not path.exists()


def test_a_page_or_a_browser_that_fails(tmp_path, runtime, monkeypatch):
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(browser, "find", lambda: str(program))
    report = export_web(small("l1"), tmp_path / "web", runtime=runtime)
    assert report.about["browser"].startswith(f"NOT CHECKED in a browser: {program}: the browser")

    def fail(*args):
        raise browser.PageError("TypeError: x is not a function")

    monkeypatch.setattr(web_page, "answers", fail)
    with pytest.raises(ParityError, match="the page fails in the browser: TypeError"):
        export_web(small("l1"), tmp_path / "other", runtime=runtime)
    assert not (tmp_path / "other").exists()


def test_what_is_refused(checkpoint_copy, runtime, monkeypatch, capsys, tmp_path):
    def line(*arguments):
        words = ("--model", checkpoint_copy, "--runtime", runtime, *arguments)
        return ended(monkeypatch, capsys, export.web.main, 2, *words)

    before = contents(checkpoint_copy)
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine"
    assert "is not a page" in line("--output", mine, "--overwrite")
    assert "is not a page" in line("--output", checkpoint_copy, "--overwrite")
    assert "--with-decoder must be left out" in line("--with-decoder")
    assert "must not exceed the number of classes, 10" in line("--objects", 11)
    assert "must be positive" in line("--objects", 0)
    assert "cannot be read" in line("--runtime", tmp_path / "nowhere")
    changed = tmp_path / "changed"
    shutil.copytree(runtime / "dist", changed)
    (changed / web_runtime.MODULE).write_bytes(b"changed")
    assert f"is not that of onnxruntime-web {web_runtime.VERSION}" in line("--runtime", changed)
    assert contents(checkpoint_copy) == before and not (checkpoint_copy / "web").exists()


@pytest.mark.parametrize("shape", [(8, 8, 2), (8, 8), (8, 8, 4)])
def test_what_is_no_picture(tmp_path, runtime, shape):
    image = keras.Input(shape)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        export_web(model, tmp_path / "web", runtime=runtime)
    assert not (tmp_path / "web").exists()


NPM = """#!/bin/sh
test "$1 $2" = "pack onnxruntime-web@VERSION" || exit 9
ACTION
"""


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Function of a line in shell: puts a program npm that does it alone on the path."""

    def put(action):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        text = NPM.replace("VERSION", web_runtime.VERSION).replace("ACTION", action)
        (folder / "npm").write_text(text)
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join([str(folder), "/usr/bin", "/bin"]))

    return put


def test_the_runtime_comes_by_npm(tmp_path, runtime, npm, monkeypatch):
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as file:
        for name in (*web_runtime.SHA256, "other.js"):
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(name)
            file.addfile(info, io.BytesIO(name.encode()))
    npm(f"cp {archive} onnxruntime-web.tgz")
    with pytest.raises(ValueError, match="another SHA-512"):
        web_runtime.copy(None, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    digest = hashlib.sha512(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(web_runtime, "SHA512", digest)
    web_runtime.check(None)
    web_runtime.copy(None, tmp_path / "runtime")
    found = {path.name: path.read_bytes() for path in (tmp_path / "runtime").iterdir()}
    assert found == {name: name.encode() for name in web_runtime.SHA256}
    web_runtime.check(tmp_path / "runtime")  # which another page takes


def test_npm_fails(tmp_path, npm, monkeypatch, runtime):
    npm("echo 'npm error network is unreachable' >&2; exit 1")
    with pytest.raises(ValueError, match="network is unreachable; or give the folder"):
        web_runtime.copy(None, tmp_path / "runtime")
    npm("exit 0")
    with pytest.raises(ValueError, match="npm could not fetch"):
        web_runtime.copy(None, tmp_path / "runtime")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="npm is needed"):
        export_web(small("l1"), tmp_path / "web")


def test_the_runtime_of_another_host(tmp_path, runtime, monkeypatch, capsys, checkpoint_copy):
    place = "https://files.example:8443/ort@1/dist"
    words = ["program", "--model", str(checkpoint_copy), "--runtime", place, "--no-browser"]
    monkeypatch.setattr("sys.argv", [*words, "--limit", "64"])
    export.web.main()
    folder = checkpoint_copy / "web"
    assert not (folder / "runtime").exists()
    parser = Tags()
    parser.feed((folder / "index.html").read_text())
    (policy,) = [x["content"] for _, x in parser.found if "Policy" in x.get("http-equiv", "")]
    assert "script-src 'self' https://files.example:8443 'wasm-unsafe-eval'" in policy
    assert "connect-src 'self' https://files.example:8443;" in policy
    foreign = {
        address.removeprefix(f"{place}/"): attributes["integrity"]
        for _, attributes in parser.found
        if (address := attributes.get("src", attributes.get("href", ""))).startswith("https:")
    }
    assert foreign == {
        name: f"sha256-{base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()}"
        for name in web_runtime.SHA256
    }
    told = about_of(folder)["runtime"]
    assert told["module"].startswith(f"{place}/") and told["integrity"] in foreign.values()
    bad = ("http://files.example/", "https://a/'x", "https://a b/", 'https://a/">', "https:x")
    for address in bad:
        words = ("--model", checkpoint_copy, "--runtime", address)
        assert "must be a folder or https" in ended(monkeypatch, capsys, export.web.main, 2, *words)


def test_bytes_of_images():
    pixels = np.arange(256, dtype="uint8")
    for pair in ((0, 255), (0, 1), (-1, 1), (-128, 127)):
        about = About(input_range=pair)
        values = about.scaled(pixels, "float32")
        np.testing.assert_array_equal(web_page.in_bytes(values, about), pixels)
    assert web_page.in_bytes(np.array([-9.0, 300.0]), About()).tolist() == [0, 255]


def test_images_of_all_classes_come_first():
    labels = np.array([0] * 30 + [2, 1, 2])
    x = np.arange(33, dtype="uint8").reshape(33, 1, 1, 1)
    pictures = web_page.pictures_of(Images(x, labels), About())
    assert [label for (label,) in pictures.labels[:6]] == [0, 1, 2, 0, 2, 0]
    assert pictures.pixels.ravel()[:6].tolist() == [0, 31, 30, 1, 32, 2]
    assert len(pictures.pixels) == web_page.PICTURES


def test_ranges_of_sliders(rng):
    poses = rng.normal(size=(40, 3, 5))
    winners = np.zeros((40, 1), int)
    winners[:10] = 1
    found = web_page.spread(poses, winners)
    for number, rows in enumerate((poses[10:, 0], poses[:10, 1], poses[:, 2])):
        middle, reach = rows.mean(0), 2.5 * rows.std(0)
        np.testing.assert_allclose(found["low"][number], middle - reach, atol=1e-4)
        np.testing.assert_allclose(found["high"][number], middle + reach, atol=1e-4)
    still = web_page.spread(np.ones((4, 1, 2)), np.zeros((4, 1), int))
    assert still == {"low": [[0.95, 0.95]], "high": [[1.05, 1.05]]}


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("width", [2, 3])
def test_how_drawings_look(background, width):
    """Lines of a known width and length, at places whose mass or box is the same."""
    pixels = np.zeros((8, 28, 28, 1), "uint8")
    for number, image in enumerate(pixels):
        image[4:24, 10 : 10 + width] = 255  # of 20 pixels
        image[12 : 12 + width, 10 : 14 + number] = 255  # which moves the mass
    found = web_page.drawing(255 - pixels if background else pixels, (28, 28), 1)
    assert found["background"] == background and found["box"] == 20
    assert found["pen"] == pytest.approx(width, rel=0.1)
    assert found["centred_by"] == "mass" or found["centre"][0] == 14
    two = web_page.drawing(pixels, (28, 28), 2)
    assert two["box"] is None and "centre" not in two
    assert web_page.drawing(np.zeros_like(pixels), (28, 28), 1)["box"] is None


def test_drawings_are_placed_by_what_varies_less(rng):
    pixels = np.zeros((6, 20, 20, 1), "uint8")
    for number, image in enumerate(pixels):
        image[2:18, 6:14] = 60  # a box that stays
        image[2 + number * 2 : 4 + number * 2, 6:14] = 255  # a mass that moves
    found = web_page.drawing(pixels, (20, 20), 1)
    assert found["centred_by"] == "box" and found["centre"] == [10, 10] and found["box"] == 16


def test_overlapping_pairs(rng):
    x = rng.integers(256, size=(7, 5, 6, 1)).astype("uint8")
    labels = np.array([1, 1, 1, 0, 2, 2, 1])
    pictures, parts = overlapping.overlapped(x, labels)
    again, _ = overlapping.overlapped(x, labels)
    np.testing.assert_array_equal(pictures, again)
    assert pictures.shape == (7, 13, 14, 1) and pictures.dtype == np.uint8
    assert parts.tolist() == [[1, 0], [1, 0], [1, 0], [0, 2], [2, 1], [2, 1], [1, 0]]
    # Both images are in the picture, at some place.
    for picture, own in zip(pictures.astype(int), x.astype(int), strict=True):
        places = [(i, j) for i in range(9) for j in range(9)]
        assert any((picture[i : i + 5, j : j + 6] >= own).all() for i, j in places)
    with pytest.raises(ValueError, match="two classes"):
        overlapping.overlapped(x, np.ones(7, int))


def test_images_of_a_run_of_overlapping_digits(tmp_path, digits_checkpoint):
    run = json.loads((digits_checkpoint / "run.json").read_text())
    single = images.of_run(run, 20)
    pairs = images.of_run({**run, "recipe": "multi_mnist"}, 20)
    assert pairs.test.shape == (20, 16, 16, 1) and pairs.labels is None
    assert pairs.parts[:, 0].tolist() == single.labels.tolist()
    assert np.all(pairs.parts[:, 0] != pairs.parts[:, 1])
    assert pairs.calibration.shape[1:] == (16, 16, 1)
    assert str(pairs) == "20 overlapping pairs of test images of digits"


def test_two_objects_in_an_image(tmp_path, runtime, rng):
    x = rng.integers(256, size=(9, 17, 18, 1)).astype("uint8")
    given = Images(x, parts=np.array([[0, 1], [1, 2], [2, 0]] * 3))
    path = tmp_path / "web"
    export_web(small("l1"), path, test_images=given, objects=2, runtime=runtime)
    about = about_of(path)
    assert about["objects"] == 2 and about["pictures"]["labels"][:3] == [[0, 1], [1, 2], [2, 0]]
    assert about["drawing"]["box"] is None


# A program in the place of a browser, which speaks the protocol as far as it is asked.
FAKE = """#!PYTHON
import json, os, sys, time

rest = b""
while True:
    while b"\\0" not in rest:
        part = os.read(3, 1 << 16)
        if not part:
            sys.exit()
        rest += part
    message, rest = rest.split(b"\\0", 1)
    message = json.loads(message)
    method, params = message["method"], message["params"]
    answer = {"id": message["id"]}
    if method == "Page.navigate" and "gone" in params["url"]:
        sys.exit()
    if method == "Page.navigate" and "slow" in params["url"]:
        time.sleep(60)
    if method == "Target.createTarget":
        answer["result"] = {"targetId": "target"}
    elif method == "Target.attachToTarget":
        answer["result"] = {"sessionId": "session " + params["targetId"]}
    elif method == "Browser.getVersion":
        answer["result"] = {"product": "Fake/1 " + " ".join(sys.argv[1:])}
    elif method == "Runtime.evaluate" and "throw" in params["expression"]:
        details = {"text": "Uncaught", "exception": {"description": "Error: no\\n  at page.js"}}
        answer["result"] = {"exceptionDetails": details}
    elif method == "Runtime.evaluate":
        value = "complete" if "readyState" in params["expression"] else message["sessionId"]
        answer["result"] = {"result": {"value": value}}
    elif method == "Wrong.method":
        answer["error"] = {"message": "there is no such method"}
    else:
        answer["result"] = {}
    event = json.dumps({"method": "Page.event", "params": {}}).encode()
    os.write(4, event + b"\\0" + json.dumps(answer).encode() + b"\\0")
"""


@pytest.fixture
def fake(tmp_path):
    path = tmp_path / "chromium"
    path.write_text(FAKE.replace("PYTHON", sys.executable))
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(os.name != "posix", reason="descriptors are handed on")
def test_the_protocol_of_browsers(fake, monkeypatch):
    with browser.started(fake) as page:
        assert page.version.startswith("Fake/1 --headless=new --remote-debugging-pipe")
        assert ("--no-sandbox" in page.version) == (os.geteuid() == 0)
        page.open("http://127.0.0.1/")
        assert page.evaluate("1") == "session target"
        assert page.events and {event["method"] for event in page.events} == {"Page.event"}
        with pytest.raises(browser.PageError, match=r"^Error: no$"):
            page.evaluate("throw 1")
        with pytest.raises(browser.BrowserError, match="Wrong.method: there is no such method"):
            page.send("Wrong.method")
        with pytest.raises(browser.BrowserError, match="has ended"):
            page.open("http://127.0.0.1/gone")
        with pytest.raises(browser.BrowserError, match="has ended"):
            page.send("Page.enable")
    monkeypatch.setattr(browser, "_SECONDS", 1)
    with browser.started(fake) as page:
        process = page._process
        with pytest.raises(browser.BrowserError, match="did not answer in 1 s"):
            page.open("http://127.0.0.1/slow")
    assert process.returncode is not None, "the browser was left running"


def test_a_server_of_one_folder(tmp_path):
    (tmp_path / "a.txt").write_text("here")
    with browser.served(tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}a.txt") as answer:
            assert answer.read() == b"here"
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{address}a.txt")


def test_where_browsers_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.find() is None
    for name in ("google-chrome", "chromium"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
        assert browser.find() == str(tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(browser.os, "name", "nt")
        assert browser.find() is None
