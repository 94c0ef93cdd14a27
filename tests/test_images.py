"""Own pictures: `recipes/images.py` on folders of scikit-learn's digits and photographs."""

import dataclasses
import inspect
import json
import shutil
import signal
import subprocess
import sys
import time

import h5py
import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

import programs
from export import checkpoint
from export import images as test_images
from harness import checkpoints, run_folder, settings
from harness.folder_settings import FolderSettings
from networks import backbones
from pictures_of import class_weights, folder_pixels, folders
from pictures_of.batches import stream

TINY = ("--widths", 4, 4, "--batch-size", 8)
# A schedule that does not depend on the number of epochs.
CONSTANT = ("--schedule", "constant", "--warm-up", 0)
WORDS = (*TINY, *CONSTANT, "--augment", "shift", "mirror")


def save(pixels, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def make_digits(folder, counts):
    """A folder of grey pictures of 8 × 8 pixels, so many of each class."""
    images, labels = load_digits(return_X_y=True)
    images = np.round(images * 255 / 16).astype("uint8").reshape(-1, 8, 8)
    for label, count in enumerate(counts):
        for number, pixels in enumerate(images[labels == label][:count]):
            save(pixels, folder / f"digit {label}" / f"{number}.png")
    return folder


def make_photographs(folder, count=10, heights=(20, 31), width=27):
    """A folder of tiles of scikit-learn's two photographs, of two sizes, as PNG and JPEG."""
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        for number in range(count):
            height = heights[number % 2]
            tile = photograph[height * number : height * (number + 1), 200 : 200 + width]
            save(tile, folder / name / f"{number}.{('png', 'JPG')[number % 2]}")
    return folder


def asked(monkeypatch, *words):
    """The settings of a command line."""
    monkeypatch.setattr(sys, "argv", ["recipes/images.py", *map(str, words)])
    before = keras.config.dtype_policy()
    try:
        return settings.read(FolderSettings, "Own pictures.", data_set="images")
    finally:
        keras.config.set_dtype_policy(before)


def load(monkeypatch, *words):
    return asked(monkeypatch, *words).load_images()


def splits_of(images):
    return {name: getattr(images, name) for name in ("train", "validation", "test")}


def refusal(folder, *words):
    """The line that the recipe ends with, which leaves nothing behind."""
    output = folder.parent / "refused"
    result = programs.recipe_here("images", folder, "--output", output, *words)
    assert result.returncode == 2, result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not output.exists()
    return result.stderr


# ------------------------------------------------------------------------------ files and pixels


@pytest.mark.tensorflow
def test_files_and_labels_are_those_of_the_loader_of_keras(tmp_path):
    make_photographs(tmp_path / "own")
    save(np.zeros((9, 9, 3), "uint8"), tmp_path / "own/flower/more/x.png")
    save(np.zeros((9, 9, 3), "uint8"), tmp_path / "own/Zebra/1.png")
    dataset = keras.utils.image_dataset_from_directory(
        tmp_path / "own", shuffle=False, batch_size=None, verbose=False
    )
    (tmp_path / "own/.hidden").mkdir()
    (tmp_path / "own/china/.thumbnail.png").write_text("none")
    found = folders.find(tmp_path / "own")
    assert found.class_names == dataset.class_names == ["Zebra", "china", "flower"]
    paths = [str(path) for files in found.splits["train"].values() for path in files]
    assert paths == dataset.file_paths


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_pixels_are_those_of_keras(monkeypatch, tmp_path, fit, capsys):
    folder = make_photographs(tmp_path / "own")
    images = load(monkeypatch, folder, "--fit", fit)
    assert images.shape == (26, 27, 3) and images.class_names == ["china", "flower"]
    how = {"stretch": "stretched", "crop": "cropped"}[fit]
    line = f"pictures of 20 × 27 to 31 × 27 pixels become 26 × 27 × 3, {how}\n"
    assert line in capsys.readouterr().out
    expected = {}
    for label, name in enumerate(images.class_names):
        for path in (folder / name).iterdir():
            image = keras.utils.load_img(
                path,
                target_size=(26, 27),
                interpolation="bilinear",
                keep_aspect_ratio=fit == "crop",
            )
            pixels = keras.utils.img_to_array(image, dtype="uint8")
            expected[pixels.tobytes()] = label
    found = {
        pixels.tobytes(): label
        for x, y in splits_of(images).values()
        for pixels, label in zip(x, y.tolist(), strict=True)
    }
    assert found == expected and len(found) == 20


def test_splits_have_their_share_of_each_class(monkeypatch, tmp_path):
    folder = make_digits(tmp_path / "own", (20, 40, 100))
    images = load(monkeypatch, folder, "--test-share", 0.2, "--validation-share", 0.1)
    counts = {name: np.bincount(y).tolist() for name, (_, y) in splits_of(images).items()}
    assert counts == {"train": [14, 28, 70], "validation": [2, 4, 10], "test": [4, 8, 20]}
    again = load(monkeypatch, folder, "--test-share", 0.2, "--validation-share", 0.1, "--seed", 5)
    for name, arrays in splits_of(images).items():
        for one, other in zip(arrays, getattr(again, name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(np.unique(images.test[1][:10])) > 1  # in random order
    few = load(monkeypatch, folder, "--limit", 20)
    assert [len(y) for _, y in splits_of(few).values()] == [17, 3, 20]


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("train", "test"), (17, 3, 5)),
        (("Train", "Test", "Validation"), (20, 8, 5)),
        (("training", "testing", "valid"), (20, 8, 5)),
        (("train", "val"), (17, 8, 3)),
        (("train",), (14, 3, 3)),
    ],
)
def test_folders_of_splits(monkeypatch, tmp_path, names, sizes):
    for name in names:
        count = {"train": (10, 10), "test": (2, 3)}.get(name.lower().removesuffix("ing"), (4, 4))
        make_digits(tmp_path / "own" / name, count)
    images = load(monkeypatch, tmp_path / "own")
    assert tuple(len(y) for _, y in splits_of(images).values()) == sizes
    assert images.class_names == ["digit 0", "digit 1"]
    if any(name.lower().startswith("test") for name in names):
        assert np.bincount(images.test[1]).tolist() == [2, 3]


def test_a_class_may_be_called_train(monkeypatch, tmp_path):
    for name in ("bus", "car", "train"):
        for number in range(8):
            save(np.full((8, 8), number, "uint8"), tmp_path / "own" / name / f"{number}.png")
    images = load(monkeypatch, tmp_path / "own")
    assert images.class_names == ["bus", "car", "train"]


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        ((), (9, 12, 3)),
        (("--image-size", 16), (16, 16, 3)),
        (("--image-size", 10, 20), (10, 20, 3)),
        (("--channels", 1), (9, 12, 1)),
        (("--backbone", "MobileNetV3Small"), (96, 96, 3)),
    ],
)
def test_shapes(monkeypatch, tmp_path, words, shape):
    for name in "ab":
        for number in range(7):
            pixels = np.full((9, 12 + number // 6, 3), number, "uint8")
            save(pixels, tmp_path / "own" / name / f"{number}.png")
    assert load(monkeypatch, tmp_path / "own", *words).shape == shape


def test_sizes_by_default():
    assert folder_pixels.size_of([(8, 8, 1)]) == [8, 8]
    assert folder_pixels.size_of([(480, 640, 3)] * 2 + [(9, 9, 3)]) == [48, 64]
    assert folder_pixels.size_of([(1000, 20, 3)]) == [64, 8]
    assert folder_pixels.size_of([(30, 20, 3)], is_for_backbone=True) == [96, 96]


def test_pictures_of_other_kinds(monkeypatch, tmp_path, capsys):
    """Palettes and transparency are colours; 1 bit and 16 bits are grey; EXIF turns nothing."""
    colours = np.arange(9 * 8 * 3, dtype="uint8").reshape(9, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        for number in range(3):
            image = Image.fromarray(colours + number)
            path = tmp_path / "colours" / name / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.convert("RGBA").save(path.with_suffix(".alpha.png"))
            image.quantize(16).save(path.with_suffix(".palette.png"))
            image.save(path.with_suffix(".turned.jpg"), exif=exif)
            path = tmp_path / "greys" / name / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.convert("1").save(path.with_suffix(".bits.png"))
            image.convert("LA").save(path.with_suffix(".alpha.png"))
            deep = colours[..., 0].astype("uint16") * 257
            Image.fromarray(deep).save(path.with_suffix(".deep.png"))
    assert load(monkeypatch, tmp_path / "colours").shape == (9, 8, 3)
    images = load(monkeypatch, tmp_path / "greys")
    assert images.shape == (9, 8, 1)
    everything = np.concatenate([x for x, _ in splits_of(images).values()])
    same = (everything == colours[..., :1]).all((1, 2, 3))
    assert same.sum() == 6  # those of 16 bits
    capsys.readouterr()
    (tmp_path / "greys/a/notes.txt").write_text("none")
    (tmp_path / "greys/b/x.webp").write_text("none")
    (tmp_path / "greys/.DS_Store").write_text("none")
    load(monkeypatch, tmp_path / "greys")
    line = "left out, for they are not .bmp, .gif, .jpeg, .jpg, .png: a/notes.txt, b/x.webp\n"
    assert line in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- errors


def damage(folder):
    (folder / "china/0.png").write_text("no picture")
    path = folder / "flower/1.JPG"
    path.write_bytes(path.read_bytes()[:300])
    return "2 of the pictures in {} cannot be read: china/0.png, flower/1.JPG. Replace or remove"


def damage_many(folder):
    for number in range(6):
        path = next((folder / "flower").glob(f"{number}.*"))
        path.write_bytes(path.read_bytes()[:300])
    return "cannot be read: flower/0.png, flower/1.JPG, flower/2.png and 3 more. Replace"


def remove(folder):
    shutil.rmtree(folder)
    return "FOLDER must be a folder of class folders. Received: {}, which does not exist."


def replace_by_file(folder):
    remove(folder)
    folder.write_text("none")
    return "Received: {}, which is a file."


def flatten(folder):
    for path in list(folder.rglob("*.png")):
        path.rename(folder / f"{path.parent.name}{path.name}")
    for name in ("china", "flower"):
        shutil.rmtree(folder / name)
    return "{} must hold a folder of pictures for each class. Received: no folder, and 10 pictures"


def leave_one(folder):
    shutil.rmtree(folder / "flower")
    return "{} must hold two classes at least. Received: 'china' alone\n"


def nest(folder):
    (folder / "inner").mkdir()
    for name in ("china", "flower"):
        (folder / name).rename(folder / "inner" / name)
    return "'inner' alone; its classes may be in {}/inner: give that folder"


def empty(folder):
    (folder / "none").mkdir()
    (folder / "one").mkdir()
    (folder / "one/x.tiff").write_text("none")
    return "must hold a picture (.bmp, .gif, .jpeg, .jpg, .png). Received none in none, one: add"


def mix(folder):
    for path in (folder / "china").iterdir():
        Image.open(path).convert("L").save(path)
    return (
        "mixes 10 grey pictures (china/0.png, china/1.JPG, china/2.png and 7 more) with 10 of "
        "colours (flower/0.png, flower/1.JPG, flower/2.png and 7 more): give --channels 3, or"
    )


def shrink(folder):
    for path in list((folder / "china").iterdir())[2:]:
        path.unlink()
    return "class 'china' of {} has 2 pictures, too few to "


def leave_one_picture(folder):
    for path in list((folder / "china").iterdir())[1:]:
        path.unlink()
    return "class 'china' of {} has 1 pictures, too few to test on one of them: add some, or"


def differ(folder):
    make_photographs(folder / "train", 4)
    make_photographs(folder / "test", 4)
    for name in ("china", "flower"):
        shutil.rmtree(folder / name)
    (folder / "test/china").rename(folder / "test/bird")
    return "the same classes in each split. only in train: china; only in test: bird"


def split_without_classes(folder):
    for name in ("china", "flower"):
        shutil.rmtree(folder / name)
    make_photographs(folder / "train", 4)
    save(np.zeros((9, 9, 3), "uint8"), folder / "test/1.png")
    return "{}/test must hold a folder of pictures for each class. Received: none, and 1 pictures"


def put_beside_splits(folder):
    for name in ("china", "flower"):
        shutil.rmtree(folder / name)
    for name in ("train", "test", "annotations"):
        make_photographs(folder / name, 4)
    return "{} must have its splits alone, test, train. Received: annotations beside; move that"


def split_twice(folder):
    differ(folder)
    (folder / "val").mkdir()
    (folder / "validation").mkdir()
    shutil.copytree(folder / "train", folder / "val", dirs_exist_ok=True)
    return "{} must have one folder of validation pictures"


@pytest.mark.parametrize(
    "change",
    [
        *(damage, damage_many, remove, replace_by_file, flatten, leave_one, nest, empty, mix),
        *(shrink, leave_one_picture, differ, split_without_classes, split_twice),
        put_beside_splits,
    ],
)
def test_folders_that_cannot_be_used(tmp_path, change):
    folder = make_photographs(tmp_path / "own")
    assert change(folder).format(folder) in refusal(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--image-size 1 2 3", "--image-size must be height and width, or one number. Received: 1"),
        ("--image-size 0", "argument --image-size: must be positive"),
        ("--image-size 4", "`input_shape` must be (height, width, channels) with at least 8 × 8"),
        ("--image-size 999999", "do not fit into memory"),
        ("--test-share 0.6 --validation-share 0.4", "must leave some to train on"),
        ("--test-share 0", "argument --test-share: must be > 0 and < 1, received 0"),
        ("--channels 2", "argument --channels: invalid choice: 2"),
        ("--limit 1", "--limit must leave images to train and to validate on"),
        ("--data-dir x", "--data-dir must be left out: pictures come from FOLDER"),
        ("--synthetic", "--synthetic must be left out: pictures come from FOLDER"),
        ("--preset standard", "images has one preset"),
        ("--backbone Foo", "argument --backbone: invalid choice: 'Foo' (choose from "),
        ("--backbone VGG16 --network deep", "--backbone is the network"),
        ("--backbone VGG16 --widths 8", "--network deep alone has blocks"),
        ("--backbone-weights x", "--backbone-weights must be left out: there is no --backbone"),
        ("--freeze-backbone", "without --backbone-weights nothing is to be kept"),
        ("--backbone VGG16 --freeze-backbone", "without --backbone-weights nothing is"),
        (
            "--backbone VGG16 --backbone-weights none.h5",
            "must be a file, or imagenet. Received: none.h5.\n",
        ),
        ("--backbone InceptionV3 --image-size 32", "InceptionV3 cannot take images of (32, 32, 3)"),
        ("--augment elastic", "--augment elastic is for images of one channel"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, words, message):
    folder = make_photographs(tmp_path / "own")
    assert message in refusal(folder, *words.split())


@pytest.mark.parametrize("output", ["ckpt", "china/ckpt", ".", "flower"])
def test_output_is_outside_of_the_folder(monkeypatch, tmp_path, output):
    folder = make_photographs(tmp_path / "own")
    monkeypatch.chdir(folder)
    result = programs.recipe_here("images", ".", "--output", output)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "--output must be outside of FOLDER, or its pictures would be" in result.stderr
    assert f"Received: {output} in ." in result.stderr
    assert asked(monkeypatch, ".", "--output", tmp_path / "own ckpt").output.name == "own ckpt"


def test_folders_that_cannot_be_named():
    for name in ("a" * 300, "/dev/null", "", "\udcff"):
        result = programs.recipe_here("images", name)
        assert result.returncode == 2 and result.stderr.count("\n") == 1


# --------------------------------------------------------------------------------- class weights


def test_weights_of_classes():
    labels = np.repeat([0, 1, 3], [6, 2, 1])
    weights = class_weights.balanced(labels, 4)
    np.testing.assert_allclose(weights, [9 / 3 / 6, 9 / 3 / 2, 1, 9 / 3 / 1])
    assert np.mean(weights[labels]) == pytest.approx(1)
    images = np.arange(9 * 4, dtype="uint8").reshape(9, 2, 2, 1)
    plain = stream(images, labels, 4, 0)
    for number in range(5):
        x, y, w = class_weights.weighted(plain, weights)(number)
        for one, other in zip((x, y), plain(number), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(w, weights[y])
    assert not class_weights.are_unequal(np.repeat([0, 1], [5, 6]), 2)
    assert class_weights.are_unequal(np.repeat([0, 1], [5, 7]), 2)


@pytest.mark.parametrize(
    ("counts", "words", "is_weighted"),
    [
        ((10, 11), (), False),
        ((10, 30), (), True),
        ((10, 30), ("--class-weights", "none"), False),
        ((10, 10), ("--class-weights", "balanced"), True),
    ],
)
def test_when_classes_are_weighted(monkeypatch, tmp_path, capsys, counts, words, is_weighted):
    own = asked(monkeypatch, make_digits(tmp_path / "own", counts), *words)
    images = own.load_images()
    weights = own.weights_of_classes(images)
    told = "their weights in the loss are balanced" in capsys.readouterr().out
    assert told == (weights is not None) == is_weighted
    if counts == (10, 30):
        assert np.bincount(images.train[1]).tolist() == [7, 21]
        if is_weighted:
            np.testing.assert_allclose(weights, [2, 2 / 3])


# ------------------------------------------------------------------------------------------ runs


def train(folder, output, *words):
    result = programs.recipe_here("images", folder, "--output", output, *words)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


def state(output):
    with h5py.File(output / checkpoints.STATE, "r") as file:
        return {name: file[name][()] for name in file}


def assert_same_run(one, other):
    """All variables are equal bit for bit, and the history but for its seconds."""
    expected, found = state(one), state(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    histories = [run_folder.read_history(path / "history.csv") for path in (one, other)]
    for history in histories:
        history.pop("seconds")
    assert histories[0] == histories[1]
    reports = [json.loads((path / "report.json").read_text()) for path in (one, other)]
    for report in reports:
        report.pop("training_seconds")
    assert reports[0] == reports[1]


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """A folder of unequal classes, and the checkpoint of two epochs on it."""
    folder = make_digits(tmp_path_factory.mktemp("own") / "few digits", (40, 20, 10))
    output = folder.parent / "ckpt"
    text = train(folder, output, *WORDS, "--epochs", 2)
    return folder, output, text


def test_the_checkpoint_folder(unequal):
    folder, output, text = unequal
    assert {path.name for path in output.iterdir()} == {
        *("model.keras", "run.json", "history.csv", "report.json", "backup", "images.npz"),
        *("curves.png", "confusion.png", "capsules.png", "couplings.png"),
    }
    loaded = checkpoint.load(output)
    assert loaded.run["labels"] == ["digit 0", "digit 1", "digit 2"]
    assert loaded.run["recipe"] == "images" and loaded.run["arguments"]["image_size"] is None
    assert "folder" not in loaded.run["arguments"]
    about = dict(loaded.run["data"])
    assert len(about.pop("sha256")) == 64
    assert about == {
        **{"name": "few digits", "title": "few digits", "folder": str(folder), "fit": "stretch"},
        **{"loader": "npz", "file": "images.npz", "image_size": [8, 8], "channels": 1},
    }
    report = json.loads((output / "report.json").read_text())
    with np.load(output / "images.npz") as kept:
        x, y = kept["x_test"], kept["y_test"]
        assert kept["x_train"].shape == (48, 8, 8, 1) and len(kept["y_train"]) == 48
    found = loaded.model.predict(x, verbose=0).argmax(-1)
    assert report["test_accuracy"] == pytest.approx(np.mean(found == y))
    recalls = [np.mean(found[y == label] == label) for label in range(3)]
    assert report["test_balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert report["test_images"] == len(y) == 11 and not report["synthetic"]
    assert text.splitlines()[0] == "reading 70 pictures of 3 classes"
    assert text.splitlines()[-1] == (
        f"test accuracy {100 * report['test_accuracy']:.2f} % on 11 test images of few digits; "
        f"checkpoint in {output}/"
    )
    # The exporters find the pictures that the model was tested on, wherever the folder is.
    images = test_images.of_run(loaded.run, folder=output)
    np.testing.assert_array_equal(images.test, x)
    np.testing.assert_array_equal(images.labels, y)
    assert len(images.calibration) == 48


def test_a_resumed_run_equals_an_uninterrupted_one(unequal, tmp_path):
    folder, whole, _ = unequal
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    words = WORDS
    train(moved, tmp_path / "parts", *words, "--epochs", 1)
    # A process that is killed here has a folder without pictures.
    (tmp_path / "parts/images.npz").unlink()
    keras.utils.set_random_seed(99)
    train(folder, tmp_path / "parts", *words, "--epochs", 2, "--resume")
    assert_same_run(whole, tmp_path / "parts")
    with np.load(whole / "images.npz") as one, np.load(tmp_path / "parts/images.npz") as other:
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_other_pictures_are_not_gone_on_with(unequal, tmp_path):
    folder, output, _ = unequal
    changed, copy = tmp_path / "few digits", tmp_path / "ckpt"
    shutil.copytree(folder, changed)
    shutil.copytree(output, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    save(np.zeros((8, 8), "uint8"), changed / "digit 1/0.png")
    words = (*WORDS, "--epochs", 3, "--resume", "--output", copy)
    result = programs.recipe_here("images", changed, *words)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "--resume needs the pictures of the run in" in result.stderr
    (changed / "digit 1/0.png").write_bytes((folder / "digit 1/0.png").read_bytes())
    (changed / "digit 1").rename(changed / "digit one")
    result = programs.recipe_here("images", changed, *words)
    assert result.returncode == 2 and "--resume needs the pictures" in result.stderr
    result = programs.recipe_here("images", folder, *words, "--image-size", 9)
    assert result.returncode == 2 and "image_size was None, received [9]" in result.stderr
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_values_that_follow_the_pictures(monkeypatch, tmp_path):
    own = asked(monkeypatch, make_digits(tmp_path / "own", (100, 100)))
    images = own.load_images()
    assert own.epochs is None and own.batch_size == 32
    fitted = own.fitted(images)
    # 140 training images are 4 whole steps of an epoch
    assert (fitted.epochs, fitted.max_shift, fitted.cutout_size) == (200, 1, 2)
    assert fitted.run.arguments == own.run.arguments and fitted.run.epochs == 200
    assert fitted.run.early_stopping == own.early_stopping
    larger = dataclasses.replace(images, train=(np.zeros((3200, 48, 64, 3), "uint8"), None))
    fitted = own.fitted(larger)
    assert (fitted.epochs, fitted.max_shift, fitted.cutout_size) == (15, 3, 12)
    words = ("--epochs", 3, "--max-shift", 2, "--cutout-size", 4, "--augment", "shift", "cutout")
    own = asked(monkeypatch, tmp_path / "own", *words)
    fitted = own.fitted(images)
    assert (fitted.epochs, fitted.max_shift, fitted.cutout_size) == (3, 2, 4)
    backbone = asked(monkeypatch, tmp_path / "own", "--backbone", "VGG16", "--optimizer", "sgd")
    assert backbone.network == "backbone" and backbone.learning_rate == 0.1


def test_a_folder_that_fits_into_no_loss(unequal, tmp_path):
    """A run in an output folder that is not writable, or holds something else, is refused first."""
    folder, *_ = unequal
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("mine")
    result = programs.recipe_here("images", folder, "--output", tmp_path / "full")
    assert result.returncode == 2 and "holds no run of a recipe" in result.stderr
    assert "reading" not in result.stdout


# ------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16", "DenseNet121", "MobileNetV3Small"])
def test_preprocessing_is_in_the_model(rng, name, channels):
    modules = {
        "MobileNetV2": keras.applications.mobilenet_v2,
        "VGG16": keras.applications.vgg16,
        "DenseNet121": keras.applications.densenet,
        "MobileNetV3Small": keras.applications.mobilenet_v3,
    }
    pixels = rng.integers(256, size=(5, 8, 9, channels)).astype("float32")
    image = keras.Input((8, 9, channels))
    found = keras.Model(image, backbones._prepared(image, name)).predict(pixels, verbose=0)
    colours = np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels
    expected = modules[name].preprocess_input(colours.copy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.long
def test_weights_of_a_backbone(tmp_path, rng):
    shape = (32, 32, 3)
    images = rng.uniform(0, 255, (4, *shape)).astype("float32")
    source = keras.applications.MobileNet(include_top=False, weights=None, input_shape=shape)
    for layer in source.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    prepared = keras.applications.mobilenet.preprocess_input(images.copy())
    source(prepared, training=True)  # with the moments of these images, features are large
    source.save_weights(tmp_path / "own.weights.h5")
    options = {"weights": str(tmp_path / "own.weights.h5"), "is_frozen": True}
    model = backbones.on_backbone("MobileNet", shape, 3, **options)
    features = keras.Model(model.input, model.get_layer("primary_caps").input)
    found, expected = features.predict(images, verbose=0), source.predict(prepared, verbose=0)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    names = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert names == {"primary_caps", "digit_caps"}
    norms = [x for x in model.get_layer("backbone").layers if hasattr(x, "moving_mean")]
    assert norms and all(layer.momentum == 0.9 for layer in norms)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    lengths = model.predict(images, verbose=0)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), lengths)
    assert lengths.shape == (4, 3) and ((lengths > 0) & (lengths < 1)).all()
    (tmp_path / "text.weights.h5").write_text("none")
    for name, file in (("MobileNetV2", "own.weights.h5"), ("MobileNet", "text.weights.h5")):
        with pytest.raises(ValueError, match=f"gives no weights to {name} without top: "):
            backbones.on_backbone(name, shape, 3, weights=str(tmp_path / file))


def test_names_of_backbones():
    assert {"MobileNetV3Small", "ResNet50", "EfficientNetB0"} <= set(backbones.names())
    for name in backbones.names():
        assert callable(backbones._preprocessing(name))
        options = inspect.signature(getattr(keras.applications, name)).parameters
        assert {"include_top", "weights", "input_shape", "name"} <= set(options)


@pytest.mark.long
def test_a_run_on_a_backbone(tmp_path):
    folder = make_digits(tmp_path / "own", (10, 10))
    words = ("--backbone", "MobileNetV3Small", "--image-size", 32, "--batch-size", 7)
    words = (*words, *CONSTANT)
    train(folder, tmp_path / "whole", *words, "--epochs", 2)
    train(folder, tmp_path / "parts", *words, "--epochs", 1)
    train(folder, tmp_path / "parts", *words, "--epochs", 2, "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert checkpoint.load(tmp_path / "whole").model.input_shape == (None, 32, 32, 1)


# ------------------------------------------------------------------------------------ whole runs


@pytest.mark.long
def test_kills(tmp_path):
    """A process that is killed wherever it is goes on, and ends as one that was left alone."""
    folder = make_digits(tmp_path / "own", (12, 24, 12))
    command = [sys.executable, programs.RECIPES / "images.py", folder, *TINY, "--epochs", 6]

    def start(output):
        return subprocess.Popen(
            [*map(str, command), "--output", str(output), "--resume"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    process = start(whole)
    assert process.communicate()[1] == b"" and process.returncode == 0
    for name in ("run.json", "images.npz", "backup/state.h5"):
        process = start(parts)
        while process.poll() is None and not (parts / name).exists():
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = start(parts)
    assert process.communicate()[1] == b"" and process.returncode == 0
    assert_same_run(whole, parts)


@pytest.mark.long
def test_digits_are_learned(tmp_path):
    folder = make_digits(tmp_path / "own", (100,) * 5)
    train(folder, tmp_path / "ckpt", "--epochs", 20)
    report = json.loads((tmp_path / "ckpt/report.json").read_text())
    assert report["test_accuracy"] >= 0.9 and report["test_images"] == 75
