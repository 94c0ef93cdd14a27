"""Classes of pictures: the same by a checkpoint, a Keras file and an ONNX file."""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import programs
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps

pytestmark = pytest.mark.tensorflow
if keras.backend.backend() == "tensorflow":
    from export import predict
    from export.about import About
    from export.onnx import export_onnx
    from export.predict import Predictor
    from exporting import ended

NAMES = ["cat", "dog", "hen"]


def network(shape=(12, 10, 3), classes=3, scale=1 / 255):
    image = keras.Input(shape)
    x = keras.layers.Rescaling(scale)(image)
    poses = DigitCaps(classes, 4, routing="l2")(PrimaryCaps(2, 4, 3, strides=2)(x))
    return keras.Model(image, CapsuleLength()(poses))


def plain(units=3, activation="softmax", shape=(12, 10, 3)):
    """A network of Keras alone, whose pixels run from -1 to 1."""
    image = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(units, activation)(x))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with models in files, of colours and of greyscale, and of other ranges of pixels."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    for name, model, about in (
        ("colour", network(), {}),
        ("grey", network((9, 14, 1)), {}),
        ("plain", plain(), {"input_range": (-1, 1)}),
    ):
        model.save(folder / f"{name}.keras")
        export_onnx(model, folder / f"{name}.onnx", labels=NAMES, **about)
    return folder


@pytest.fixture
def pictures(tmp_path, rng):
    """Pictures of other sizes and channels than any model takes."""
    sizes = {"a.png": (12, 10, 3), "b.jpg": (40, 31, 3), "c.png": (23, 17), "d.png": (5, 5, 4)}
    for name, size in sizes.items():
        low = rng.integers(256, size=(3, 3, *size[2:]), dtype="uint8")
        Image.fromarray(low).resize((size[1], size[0])).save(tmp_path / name)
    return [tmp_path / name for name in sizes]


def expected(model, path, low=0.0, high=255.0):
    """What Keras alone gives for a picture: its loader, and the model's own `predict`."""
    height, width, channels = model.input_shape[1:]
    mode = "rgb" if channels == 3 else "grayscale"
    image = keras.utils.load_img(path, mode, (height, width), interpolation="bilinear")
    pixels = low + keras.utils.img_to_array(image) * (high - low) / 255
    return model.predict(pixels[None].astype("float32"), verbose=0)[0]


@pytest.mark.parametrize(
    ("name", "low", "high"), [("colour", 0, 255), ("grey", 0, 255), ("plain", -1, 1)]
)
def test_values_are_those_of_keras(models, pictures, name, low, high):
    model = keras.saving.load_model(models / f"{name}.keras")
    told = {"labels": NAMES, "input_range": (low, high)}
    for predictor in (
        Predictor(models / f"{name}.onnx"),
        Predictor(models / f"{name}.keras", **told),
    ):
        assert predictor.labels == NAMES
        assert (*predictor.size, predictor.channels) == model.input_shape[1:]
        for path in pictures:
            found = predictor.predict(path)
            values = expected(model, path, low, high)
            assert list(found) == [NAMES[number] for number in np.argsort(-values)]
            np.testing.assert_allclose([found[x] for x in NAMES], values, atol=1e-5)
        # What one picture gives does not depend on those beside it.
        both = predictor.predict_files([*pictures, pictures[0]] * 9)
        assert len(both) == 45
        alone = [predictor.predict(path) for path in (*pictures, pictures[0])] * 9
        for one, other in zip(both, alone, strict=True):
            np.testing.assert_allclose(
                [one[x] for x in NAMES], [other[x] for x in NAMES], atol=1e-6
            )


def test_images_of_pillow(models, pictures):
    predictor = Predictor(models / "grey.onnx")
    with Image.open(pictures[1]) as image:
        assert predictor.predict(image) == predictor.predict(pictures[1])


def test_a_file_of_one_batch_size(tmp_path, pictures):
    model = network()
    export_onnx(model, tmp_path / "free.onnx", labels=NAMES)
    export_onnx(model, tmp_path / "fixed.onnx", labels=NAMES, batch_size=3)
    found = Predictor(tmp_path / "fixed.onnx").predict_files(pictures)
    for one, other in zip(
        found, Predictor(tmp_path / "free.onnx").predict_files(pictures), strict=True
    ):
        np.testing.assert_allclose([one[x] for x in NAMES], [other[x] for x in NAMES], atol=1e-6)


def test_a_checkpoint_and_its_onnx_file(digits_checkpoint, tmp_path):
    """Scikit-learn's digits as pictures get their classes, from both alike."""
    from sklearn.datasets import load_digits

    from export import checkpoint

    loaded = checkpoint.load(digits_checkpoint)
    export_onnx(loaded.model, tmp_path / "model.onnx", checkpoint=loaded)
    digits = load_digits()
    chosen = loaded.run["data"]["test_indices"][:40]
    paths = [tmp_path / f"{number}.png" for number in chosen]
    for path, number in zip(paths, chosen, strict=True):
        pixels = np.round(digits.images[number] * loaded.run["data"]["scale"]).astype("uint8")
        Image.fromarray(pixels).save(path)
    by_folder = Predictor(digits_checkpoint).predict_files(paths)
    by_file = Predictor(tmp_path / "model.onnx").predict_files(paths)
    winners = [next(iter(x)) for x in by_folder]
    assert winners == [next(iter(x)) for x in by_file]
    assert np.mean([int(x) for x in winners] == digits.target[chosen]) > 0.8
    for one, other in zip(by_folder, by_file, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_fit_of_training_is_that_of_prediction(models, tmp_path, pictures):
    """A checkpoint of pictures that were cropped, and the file of it."""
    from export import checkpoint

    shutil.copy(models / "colour.keras", tmp_path / "model.keras")
    data = {"loader": "npz", "name": "own", "title": "own", "file": "images.npz"}
    wide = pictures[1]
    for entries, fit in (({}, "stretch"), ({"fit": "pad"}, "pad"), ({"crop": True}, "crop")):
        run = checkpoint.run_content("images", {**data, **entries}, NAMES)
        (tmp_path / "run.json").write_text(json.dumps(run))
        loaded = checkpoint.load(tmp_path)
        export_onnx(loaded.model, tmp_path / "model.onnx", checkpoint=loaded)
        found = Predictor(tmp_path / "model.onnx").predict(wide)
        assert found == pytest.approx(Predictor(tmp_path).predict(wide), abs=1e-5)
        asked = Predictor(models / "colour.onnx", fit=fit).predict(wide)
        assert found == pytest.approx(asked, abs=1e-5)
    others = [Predictor(models / "colour.onnx", fit=x).predict(wide) for x in ("stretch", "pad")]
    assert others[0] != pytest.approx(others[1], abs=1e-5)


def test_one_value_for_two_classes(tmp_path, pictures):
    """A network of one probability tells the second of two classes, as Keras' loader numbers."""
    model = plain(1, "sigmoid")
    model.save(tmp_path / "m.keras")
    export_onnx(model, tmp_path / "m.onnx", labels=["cat", "dog"], input_range=(-1, 1))
    value = float(expected(model, pictures[1], -1, 1)[0])
    for predictor in (
        Predictor(tmp_path / "m.onnx"),
        Predictor(tmp_path / "m.keras", ["cat", "dog"], (-1, 1)),
    ):
        found = predictor.predict(pictures[1])
        assert found == pytest.approx({"dog": value, "cat": 1 - value}, abs=1e-5)
    found = Predictor(tmp_path / "m.onnx", ["dog"]).predict(pictures[1])
    assert found == pytest.approx({"dog": value}, abs=1e-5)


def test_one_value_that_is_no_probability(tmp_path, pictures):
    model = plain(1, None)
    model.layers[-1].bias.assign([7.0])
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="gives one value that is not from 0 to 1, .* cat, dog"):
        Predictor(tmp_path / "m.keras", ["cat", "dog"]).predict(pictures[0])


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    predict.main()
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out


def test_what_the_program_prints(models, pictures, monkeypatch, capsys):
    arguments = ("--model", models / "colour.onnx", *pictures)
    found = Predictor(models / "colour.onnx").predict_files(pictures)
    lines = run(monkeypatch, capsys, *arguments).splitlines()
    assert len(lines) == 4 * len(pictures)
    for number, (path, classes) in enumerate(zip(pictures, found, strict=True)):
        title, *rows = lines[4 * number : 4 * number + 4]
        assert title == str(path)
        assert rows == [f"  {name}  {value:.4f}" for name, value in classes.items()]
    lines = run(monkeypatch, capsys, *arguments, "--top", 1).splitlines()
    assert lines == [
        line
        for path, classes in zip(pictures, found, strict=True)
        for line in (str(path), "  {}  {:.4f}".format(*next(iter(classes.items()))))
    ]
    rows = json.loads(run(monkeypatch, capsys, *arguments, "--json"))
    assert [row["picture"] for row in rows] == list(map(str, pictures))
    assert [row["classes"] for row in rows] == found
    assert [list(row["classes"]) for row in rows] == [list(x) for x in found]
    rows = json.loads(run(monkeypatch, capsys, *arguments, "--json", "--top", 2))
    assert [len(row["classes"]) for row in rows] == [2] * 4


def test_folders_and_other_names(models, pictures, monkeypatch, capsys, tmp_path):
    (tmp_path / "names.txt").write_text("a\nlong name\nc\n")
    lines = run(
        monkeypatch,
        *(capsys, "--model", models / "grey.onnx", "--labels", tmp_path / "names.txt", tmp_path),
    ).splitlines()
    assert [line for line in lines if line[0] != " "] == sorted(map(str, pictures))
    names = {line[2:11].rstrip() for line in lines if line[0] == " "}
    assert names == {"a", "long name", "c"}
    assert all(line[11:13] == "  " for line in lines if line[0] == " ")


def saved(folder, model, name="m.keras", **about):
    model.save(folder / "m.keras")
    if name.endswith(".onnx"):
        export_onnx(model, folder / name, **about)
    return folder / name


def damaged_metadata(folder, **entries):
    import onnx

    path = saved(folder, plain(), "m.onnx", labels=NAMES)
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {x.key: x.value for x in proto.metadata_props} | entries)
    onnx.save(proto, path)
    return path


CASES = {
    "no names": (lambda f: saved(f, plain()), "does not tell the names of its classes: give them"),
    "no names in ONNX": (lambda f: saved(f, plain(), "m.onnx"), "does not tell the names"),
    "nothing": (lambda f: f / "none", "none does not exist"),
    "no file": (lambda f: f / "none.onnx", "none.onnx does not exist"),
    "empty folder": (lambda f: f, "it has no run.json"),
    "other kind": (lambda f: saved(f, plain()).rename(f / "m.pt"), "m.pt is no model that can be"),
    "no ONNX": (lambda f: saved(f, plain()).rename(f / "m.onnx"), "cannot be read as an ONNX file"),
    "no pictures": (
        lambda f: saved(f, keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])),
        "takes values of shape (4,), and pictures are height × width",
    ),
    "metadata": (
        lambda f: damaged_metadata(f, labels='["a", '),
        "m.onnx: its metadata are damaged",
    ),
    "metadata of text": (lambda f: damaged_metadata(f, labels='"abc"'), "must be a list of the"),
    "range": (lambda f: damaged_metadata(f, input_range="[1, 0]"), "`input_range` must have the"),
    "fit": (lambda f: damaged_metadata(f, fit="fill"), "`fit` must be one of"),
}


@pytest.mark.parametrize("case", CASES)
def test_models_that_cannot_predict(case, tmp_path, pictures, monkeypatch, capsys):
    make, message = CASES[case]
    (tmp_path / "models").mkdir()
    path = make(tmp_path / "models")
    line = ended(monkeypatch, capsys, predict.main, 2, "--model", path, pictures[0])
    assert message in line
    if "names" in case:
        labels = ("--labels", "a,b,c", "--top", 1)
        assert run(monkeypatch, capsys, "--model", path, pictures[0], *labels).count("\n") == 2


def test_bad_arguments(models, tmp_path, pictures, monkeypatch, capsys):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "none").mkdir()
    (tmp_path / "twice.txt").write_text("a\na\n")
    for arguments, message in (
        ([tmp_path / "x.png"], "x.png does not exist"),
        ([pictures[0], tmp_path / "text.png"], "text.png cannot be read as a picture: it is not"),
        ([tmp_path / "none"], "none holds no picture"),
        ([pictures[0], "--labels", "a,b"], "names 2 classes, the model has 3"),
        ([pictures[0], "--labels", "a,,b"], "must be a list of the classes' names"),
        ([pictures[0], "--labels", tmp_path / "twice.txt"], "'a' more than once"),
        ([pictures[0], "--labels", tmp_path / "none.txt"], "none.txt cannot be read: No such file"),
        ([pictures[0], "--input-range", "1", "0"], "must have the lower number first"),
        ([pictures[0], "--input-range", "nan", "0"], "must be two numbers"),
        ([pictures[0], "--top", "0"], "argument --top: must be positive"),
        ([pictures[0], "--fit", "fill"], "argument --fit: invalid choice: 'fill'"),
        ([], "the following arguments are required: pictures"),
    ):
        for name in ("colour.onnx", "colour.keras"):
            labels = (
                [] if "--labels" in arguments or name == "colour.onnx" else ["--labels", "a,b,c"]
            )
            arguments = ["--model", models / name, *arguments]
            line = ended(monkeypatch, capsys, predict.main, 2, *arguments, *labels)
            assert message in line
            arguments = arguments[2:]


ALONE = """
import sys
from export.__main__ import main
sys.argv = ["kcaps", "predict", "--model", "colour.onnx", "--json", *sys.argv[1:]]
main()
heavy = {"tensorflow", "keras", "kcaps", "jax", "torch", "onnx", "tf2onnx", "sklearn", "matplotlib"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}
"""


def test_an_onnx_file_needs_numpy_onnxruntime_and_pillow_alone(models, pictures, tmp_path):
    """In a process where nothing else that this project installs can be imported."""
    (tmp_path / "sitecustomize.py").write_text(programs.BLOCKER)
    blocked = "tensorflow keras kcaps jax torch onnx tf2onnx onnxslim sklearn scipy matplotlib h5py"
    places = os.pathsep.join([str(tmp_path), str(programs.ROOT)])
    environment = {**os.environ, "PYTHONPATH": places, "BLOCKED": blocked.replace(" ", ",")}
    command = [sys.executable, "-c", ALONE, *map(str, pictures)]
    options = {"capture_output": True, "text": True, "cwd": models, "env": environment}
    result = subprocess.run(command, **options)
    assert result.returncode == 0 and not result.stderr, result.stderr
    found = Predictor(models / "colour.onnx").predict_files(pictures)
    rows = json.loads(result.stdout)
    assert [row["classes"] for row in rows] == [pytest.approx(x, abs=1e-6) for x in found]
    environment["BLOCKED"] += ",PIL"
    result = subprocess.run(command, **{**options, "env": environment})
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: pillow is needed and cannot be imported")


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_checkpoint_on_other_backends(digits_checkpoint, tmp_path, backend):
    pytest.importorskip(backend)
    pixels = np.arange(64, dtype="uint8").reshape(8, 8) * 4
    Image.fromarray(pixels).save(tmp_path / "x.png")
    command = [
        sys.executable,
        "-m",
        "export",
        "predict",
        "--model",
        str(digits_checkpoint),
        "--json",
    ]
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(programs.ROOT)}
    result = subprocess.run(
        [*map(str, command), "x.png"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(result.stdout)
    found = Predictor(digits_checkpoint).predict(tmp_path / "x.png")
    assert row["classes"] == pytest.approx(found, abs=1e-5)


def test_pixels_in_the_unit_of_a_model():
    pixels = np.array([0, 51, 255], "uint8")
    assert About(input_range=(-1, 1)).scaled(pixels, "float32").tolist() == pytest.approx(
        [-1, -0.6, 1]
    )
    assert About(input_range=(0, 1)).scaled(pixels, "float32").dtype == np.float32
    assert About().scaled(pixels, "int32").tolist() == [0, 51, 255]
    assert About(input_range=(0, 16)).scaled(pixels, "int32").tolist() == [0, 3, 16]
