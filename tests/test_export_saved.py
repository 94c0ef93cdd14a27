"""Any saved model: single files of Keras, with images in whatever form a user has them."""

import json
import os

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from PIL import Image

import export.onnx
import export.saved_model
from export import checkpoint, given, images, verify
from export.about import About, labels_argument
from export.images import Images
from export.onnx import export_onnx
from export.pictures import read_picture
from exporting import contents, ended, onnx_outputs, small
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps

NAMES = ["cat", "dog", "hen"]


def plain(shape=(12, 10, 3), units=3, activation="softmax", scale=1 / 127.5, offset=-1.0):
    """A network of Keras alone."""
    image = keras.Input(shape)
    x = keras.layers.Rescaling(scale, offset)(image)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(image, keras.layers.Dense(units, activation)(keras.layers.Flatten()(x)))


def capsules(shape=(9, 14, 1)):
    image = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(image)
    poses = DigitCaps(3, 4, routing="l2")(PrimaryCaps(2, 4, 3, strides=2)(x))
    return keras.Model(image, CapsuleLength()(poses))


def pictures(folder, rng, sizes=(5, 4, 3), names=NAMES):
    """Class folders of pictures of random pixels and sizes, in the formats in turn."""
    for name, count in zip(names, sizes, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            size = (*rng.integers(9, 30, 2), 3)
            image = Image.fromarray(rng.integers(256, size=size).astype("uint8"))
            image.save(folder / name / f"{number}.{('png', 'jpg', 'bmp')[number % 3]}")
    return folder


def expected_of(model, folder, names=NAMES):
    """Pixels and labels of class folders, by Keras' own loader."""
    height, width, channels = model.input_shape[1:]
    pixels, labels = [], []
    for name in sorted(names):
        for path in sorted((folder / name).iterdir()):
            mode = "rgb" if channels == 3 else "grayscale"
            image = keras.utils.load_img(path, mode, (height, width), interpolation="bilinear")
            pixels.append(keras.utils.img_to_array(image))
            labels.append(names.index(name))
    return np.stack(pixels), np.array(labels)


def run(monkeypatch, capsys, main, *arguments):
    monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
    capsys.readouterr()
    main()
    return capsys.readouterr()


@pytest.mark.parametrize("make", [plain, capsules])
def test_a_file_and_a_folder_of_pictures(tmp_path, rng, monkeypatch, capsys, make):
    model = make()
    model.save(tmp_path / "own.keras")
    folder = pictures(tmp_path / "pictures", rng)
    arguments = ("--model", tmp_path / "own.keras", "--images", folder)
    told = run(monkeypatch, capsys, export.onnx.main, *arguments)
    pixels, labels = expected_of(model, folder)
    classes = model.predict(pixels, verbose=0).argmax(-1)
    accuracy = float(np.mean(classes == labels))
    assert make is capsules or len(set(classes)) > 1
    report = json.loads((tmp_path / "own.onnx.json").read_text())
    assert report["images"] == f"12 pictures of {folder}"
    assert report["accuracy"] == {"before": accuracy, "after": accuracy}
    assert report["labels"] == NAMES  # those of the class folders
    assert report["input_shape"] == list(model.input_shape[1:])
    assert report["input_range"] == [0, 255] and report["fit"] == "stretch"
    assert f"test accuracy {100 * accuracy:.2f} % before" in told.out
    metadata = {e.key: e.value for e in onnx.load(tmp_path / "own.onnx").metadata_props}
    assert json.loads(metadata["labels"]) == NAMES and "recipe" not in metadata
    assert metadata["checkpoint_sha256"] == checkpoint.load(tmp_path / "own.keras").sha256
    name = "class_lengths" if make is capsules else model.output_names[0]
    for batch in (1, 5):
        values = onnx_outputs(tmp_path / "own.onnx", pixels[:batch])[name]
        np.testing.assert_allclose(values, model.predict(pixels[:batch], verbose=0), atol=1e-5)
    told = run(monkeypatch, capsys, verify.main, *arguments)
    assert f"agrees with {tmp_path / 'own.keras'} on 12 pictures of {folder}" in told.out
    told = run(monkeypatch, capsys, export.saved_model.main, *arguments, "--labels", "cat,dog,hen")
    assert (tmp_path / "own_saved_model/saved_model.pb").is_file()
    report = json.loads((tmp_path / "own_saved_model.json").read_text())
    assert report["accuracy"]["before"] == accuracy and report["labels"] == NAMES


def test_pixels_in_the_range_of_the_model(tmp_path, rng, monkeypatch, capsys):
    model = plain(scale=1.0, offset=0.0)
    model.save(tmp_path / "m.keras")
    folder = pictures(tmp_path / "pictures", rng)
    pixels, labels = expected_of(model, folder)
    classes = model.predict(pixels / 127.5 - 1, verbose=0).argmax(-1)
    accuracy = np.mean(classes == labels)
    assert len(set(classes)) > 1
    arguments = ("--model", tmp_path / "m.keras", "--input-range", -1, 1)
    run(monkeypatch, capsys, export.onnx.main, *arguments, "--images", folder)
    report = json.loads((tmp_path / "m.onnx.json").read_text())
    assert report["accuracy"]["before"] == accuracy and report["input_range"] == [-1, 1]
    told = run(monkeypatch, capsys, verify.main, *arguments[:2], "--images", folder)
    assert f"test accuracy {100 * accuracy:.2f} % before" in told.out
    # Random ones, and by `verify`, which reads the range in the file.
    told = run(monkeypatch, capsys, export.onnx.main, *arguments, "--overwrite")
    assert "64 random images, pixels from -1 to 1" in told.out and "accuracy" not in told.out
    told = run(monkeypatch, capsys, verify.main, "--model", tmp_path / "m.keras")
    assert "on 64 random images, pixels from -1 to 1" in told.out
    found = images.choose(None, None, model.inputs[0], About(input_range=(-1, 1)))
    assert found.is_random and found.test.min() == -1 and found.test.max() == 1


def test_names_of_the_user_number_the_class_folders(tmp_path, rng, monkeypatch, capsys):
    model, folder = plain(), pictures(tmp_path / "p", rng)
    model.save(tmp_path / "m.keras")
    names = ["hen", "cat", "dog"]
    report = export_onnx(model, tmp_path / "m.onnx", labels=names, test_images=folder)
    pixels, labels = expected_of(model, folder, names)
    accuracy = np.mean(model.predict(pixels, verbose=0).argmax(-1) == labels)
    assert report.comparison.accuracy_before == accuracy and report.about["labels"] == names
    # The file knows its names, which are not in the order of the alphabet.
    words = ("--model", tmp_path / "m.keras", "--images", folder)
    told = run(monkeypatch, capsys, verify.main, *words)
    assert f"test accuracy {100 * accuracy:.2f} % before" in told.out
    found = given.read(folder, model.inputs[0], About(names))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.test, pixels)
    few = given.read(str(folder), model.inputs[0], About(names), limit=4)
    assert len(few.test) == 4 and set(few.labels) == {0, 1, 2}  # of all classes


def test_pictures_without_classes_and_shares(tmp_path, rng):
    image, folder = plain().inputs[0], tmp_path / "p"
    pictures(folder / "train", rng)
    pictures(folder / "test", rng, (1, 2, 2))
    found = given.read(folder, image, About())
    assert found.labels.tolist() == [0, 1, 1, 2, 2] and len(found.calibration) == 12
    assert str(found) == f"5 pictures of {folder / 'test'}" and found.class_names == NAMES
    (folder / "test").rename(folder / "valid")
    (folder / "train").rename(folder / "Training")
    found = given.read(folder, image, About())
    assert str(found) == f"5 pictures of {folder / 'valid'}" and len(found.calibration) == 12
    (folder / "valid").rename(folder / "test")
    found = given.read(folder / "test/dog", image, About())
    assert found.labels is None and found.class_names is None and found.calibration is None
    expected = [read_picture(folder / f"test/dog/{x}", (12, 10), 3) for x in ("0.png", "1.jpg")]
    np.testing.assert_array_equal(found.test, expected)


def arrays(rng, count=7, shape=(12, 10, 3)):
    return rng.uniform(0, 255, (count, *shape)).astype("float32"), rng.integers(3, size=count)


def test_arrays_and_data_sets(rng):
    """Every form gives the same images, and the same labels where it has any."""
    x, y = arrays(rng)
    image, about = plain().inputs[0], About()
    singles = tf.data.Dataset.from_tensor_slices((x, y))
    one_hot = tf.data.Dataset.from_tensor_slices((x, np.eye(3)[y]))
    for source, has_labels in (
        ((x, y), True),
        ((x, y[:, None]), True),
        ((x, np.eye(3)[y]), True),
        ((x, y.astype("float32")), True),
        (x, False),
        (singles, True),
        (singles.batch(3), True),
        (one_hot.batch(3), True),
        (singles.batch(3, drop_remainder=True).concatenate(singles.skip(6).batch(1)), True),
        (tf.data.Dataset.from_tensor_slices(x), False),
        (tf.data.Dataset.from_tensor_slices(x).batch(4), False),
        (tf.data.Dataset.from_tensor_slices((x, y, np.ones(7))), True),  # weights
        (tf.constant(x), False),
    ):
        for limit in (None, 4):
            found = given.read(source, image, about, limit)
            np.testing.assert_array_equal(found.test, x[:limit])
            if has_labels:
                np.testing.assert_array_equal(found.labels, y[:limit])
            assert (found.labels is not None) == has_labels


@pytest.mark.parametrize("names", ["xy", "x", "test", "all"])
def test_files_of_arrays(tmp_path, rng, names):
    x, y = arrays(rng, shape=(9, 14))
    content = {
        "xy": {"x": x, "y": y},
        "x": {"x": x[..., None]},
        "test": {"x_test": x, "y_test": y[:, None], "other": y},
        "all": {"x_train": x[:3], "y_train": y[:3], "x_test": x, "y_test": y},
    }[names]
    np.savez(tmp_path / "own.npz", **content)
    found = given.read(tmp_path / "own.npz", capsules().inputs[0], About(), 5)
    np.testing.assert_array_equal(found.test, x[:5, ..., None])
    assert str(found) == "5 images of own.npz"
    if names != "x":
        np.testing.assert_array_equal(found.labels, y[:5])
    if names == "all":
        np.testing.assert_array_equal(found.calibration, x[:3, ..., None])
    else:
        assert found.calibration is None


def test_a_program_takes_files_of_arrays(tmp_path, rng, monkeypatch, capsys):
    """Vectors are no pictures, and are exported all the same."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax", name="dense")])
    model.save(tmp_path / "m.keras")
    x, y = rng.normal(size=(20, 5)).astype("float32"), rng.integers(3, size=20)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    arguments = ("--model", tmp_path / "m.keras", "--images", tmp_path / "own.npz")
    run(monkeypatch, capsys, export.onnx.main, *arguments, "--labels", "a,b,c")
    report = json.loads((tmp_path / "m.onnx.json").read_text())
    values = model.predict(x, verbose=0)
    assert report["accuracy"]["after"] == np.mean(values.argmax(-1) == y)
    np.testing.assert_allclose(onnx_outputs(tmp_path / "m.onnx", x)["dense"], values, atol=1e-6)


def test_a_checkpoint_with_images_of_its_own_in_the_folder(tmp_path, rng, monkeypatch, capsys):
    """As of a recipe of own pictures: a file beside run.json, wherever the folder is."""
    model = plain()
    model.save(tmp_path / "model.keras")
    x, y = rng.integers(256, size=(30, 12, 10, 3), dtype="uint8"), rng.integers(3, size=30)
    splits = {"x_train": x[:10], "y_train": y[:10], "x_test": x[10:], "y_test": y[10:]}
    np.savez(tmp_path / "images.npz", **splits)
    data = {"loader": "npz", "name": "own", "title": "own", "file": "images.npz", "crop": True}
    run_content = checkpoint.run_content("images", data, NAMES)
    (tmp_path / "run.json").write_text(json.dumps(run_content))
    # The file of a checkpoint stands for its folder.
    for path in (tmp_path, tmp_path / "model.keras"):
        told = run(monkeypatch, capsys, export.onnx.main, "--model", path, "--overwrite")
        report = json.loads((tmp_path / "model.onnx.json").read_text())
        expected = np.mean(model.predict(x[10:], verbose=0).argmax(-1) == y[10:])
        assert report["accuracy"]["before"] == expected and not told.err
        assert report["images"] == "20 test images of own" and report["fit"] == "crop"
    told = run(monkeypatch, capsys, verify.main, "--model", tmp_path)
    assert "on 20 test images of own" in told.out
    (tmp_path / "images.npz").unlink()
    told = run(monkeypatch, capsys, export.onnx.main, "--model", tmp_path, "--overwrite")
    assert told.err.count("\n") == 1
    assert told.err.startswith("warning: the run's own test images, images.npz in its folder, are")
    report = json.loads((tmp_path / "model.onnx.json").read_text())
    assert report["accuracy"] is None and report["images"].startswith("64 random images, pixels")
    assert len(report["warnings"]) == 1


def test_outputs_without_classes_and_several_outputs(tmp_path, rng):
    """All are compared; the class is that of lengths or of the first output, if it is a matrix."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3, name="map")(image)
    first = keras.layers.Dense(3, "softmax", name="first")(keras.layers.Flatten()(x))
    second = keras.layers.Dense(2, name="second")(keras.layers.Flatten()(x))
    pixels, labels = arrays(rng, shape=(8, 8, 1))
    for number, (outputs, count) in enumerate(
        (([first, second], 3), ([x, first], None), (x, None))
    ):
        model = keras.Model(image, outputs)
        path = tmp_path / f"{number}.onnx"
        report = export_onnx(model, path, test_images=(pixels, labels), labels=count and NAMES)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        rows = {row.output for row in report.rows}
        assert rows - {"class"} == set(onnx_outputs(path, pixels)) and len(rows) >= len(outputs)
        assert ("class" in rows) == (count is not None)
        if count:
            expected = np.mean(model.predict(pixels, verbose=0)[0].argmax(-1) == labels)
            assert report.comparison.accuracy_before == expected
        else:
            assert report.comparison.accuracy_before is None
    two = keras.Model([image, keras.Input((2,))], first)
    with pytest.raises(ValueError, match="must have one input, the image. Received: 2 inputs"):
        export_onnx(two, tmp_path / "two.onnx")


def test_one_probability_of_two_classes(tmp_path, rng):
    model = plain(units=1, activation="sigmoid")
    x, _ = arrays(rng, 40)
    values = model.predict(x, verbose=0)[:, 0]
    model.layers[-1].bias.assign(
        -model.layers[-1].kernel[0] * 0 - np.median(np.log(values / (1 - values)))
    )
    values = model.predict(x, verbose=0)[:, 0]
    y = (np.arange(40) % 2).astype("int64")
    expected = np.mean((values > 0.5) == y)
    assert 0 < np.mean(values > 0.5) < 1
    report = export_onnx(model, tmp_path / "m.onnx", labels=["a", "b"], test_images=(x, y))
    assert report.comparison.accuracy_after == expected
    logits = plain(units=1, activation=None)
    logits.layers[-1].bias.assign([3.0])
    report = export_onnx(logits, tmp_path / "m.onnx", labels=["a", "b"], test_images=(x, y))
    assert report.comparison.accuracy_before is None


class Own(keras.layers.Layer):
    """A layer that no file of Keras can name."""

    def call(self, inputs):
        return 2 * inputs


def own(path):
    image = keras.Input((8, 8, 1))
    keras.Model(image, keras.layers.Flatten()(Own()(image))).save(path)


def test_classes_of_a_user(tmp_path, monkeypatch, capsys):
    path = tmp_path / "m.keras"
    own(path)
    line = ended(monkeypatch, capsys, export.onnx.main, 2, "--model", path)
    assert "Own is no class of Keras or kcaps. Export a model of classes of your own from" in line
    with keras.saving.custom_object_scope({"Own": Own}):
        model = keras.saving.load_model(path)
    assert export_onnx(model, tmp_path / "m.onnx").largest_difference <= 1e-5


def free(shape):
    """A network of Keras alone that takes images of any size, if that is its shape."""
    image = keras.Input(shape)
    maps = keras.layers.Conv2D(4, 3, activation="relu")(image)
    maps = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(image, keras.layers.Dense(3, "softmax")(maps))


def test_a_network_of_any_size_within_another_of_one(tmp_path, rng):
    """As the refusal of a network of any size says."""
    model = keras.Sequential([keras.Input((12, 10, 3)), free((None, None, 3))])
    x, y = arrays(rng)
    report = export_onnx(model, tmp_path / "m.onnx", test_images=(x, y))
    assert report.largest_difference <= 1e-5
    values = next(iter(onnx_outputs(tmp_path / "m.onnx", x).values()))
    np.testing.assert_allclose(values, model.predict(x, verbose=0), atol=1e-5)


def files(folder, rng):
    """A folder of what a user may have."""
    plain().save(folder / "m.keras")
    (folder / "m.h5").write_bytes(b"x")
    (folder / "text.keras").write_text("no archive")
    (folder / "empty").mkdir()
    pictures(folder / "p", rng)
    pictures(folder / "two", rng, (1, 1), ["cat", "dog"])
    pictures(folder / "bad", rng)
    (folder / "bad/dog/x.png").write_text("no picture")
    x, y = arrays(rng)
    np.savez(folder / "other.npz", z=x)
    np.savez(folder / "shape.npz", x=x[:, :5])
    np.savez(folder / "labels.npz", x=x, y=y[:5])
    np.savez(folder / "texts.npz", x=x, y=np.array(list("abcdefg")))
    np.save(folder / "array.npy", x)
    (folder / "text.npz").write_text("no archive")
    np.savez(folder / "none.npz", x=x[:0])
    np.savez(folder / "from_1.npz", x=x, y=0 * y + 3)
    np.savez(folder / "negative.npz", x=x, y=0 * y - 1)
    np.savez(folder / "nan.npz", x=np.where(x == x.max(), np.nan, x), y=y)
    free((None, None, 3)).save(folder / "sizes.keras")
    (folder / "latin.txt").write_text("café\nthé\neau", encoding="latin-1")
    for name in ("train", "test", "x"):
        pictures(folder / "splits" / name, rng, (1, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.h5"], "m.h5 is no model that can be read. Load it where you trust it, and save it"),
        (["text.keras"], "text.keras is damaged"),
        (["."], "it has no run.json. Export its model by its file: --model m.keras --labels a,b,c"),
        (["empty"], "it has no run.json. Train one with"),
        (["none.keras"], "model file none.keras does not exist. Give a checkpoint folder, or a"),
        (["m.keras", "--output", "m.keras", "--overwrite"], "is, or has its report in, the check"),
        (["m.keras", "--labels", "a,b"], "`labels` (--labels) names 2 classes, the model has 3"),
        (["m.keras", "--labels", "a,a,b"], "argument --labels: `labels` must be different names"),
        (["m.keras", "--labels", "x/labels.txt"], "x/labels.txt cannot be read: No such file"),
        (["m.keras", "--input-range", "1", "1"], "`input_range` must have the lower number first"),
        (["m.keras", "--input-range", "1"], "argument --input-range: expected 2 arguments"),
        (["m.keras", "--images", "none"], "none does not exist: give a folder of pictures or an"),
        (["m.keras", "--images", "empty"], "empty holds no picture"),
        (["m.keras", "--images", "bad"], "x.png cannot be read as a picture: it is not BMP"),
        (
            ["m.keras", "--images", "two"],
            "the 2 pictures of two are of 2 classes, cat, dog, and the model has 3: give the names",
        ),
        (["m.keras", "--images", "splits"], "must have its splits alone, test, train. Received: x"),
        (
            ["sizes.keras"],
            "and of known sizes but for the batch. Received: shape (None, None, None",
        ),
        (["sizes.keras", "--images", "p"], "Give it one: keras.Sequential([keras.Input((height,"),
        (["m.keras", "--labels", "latin.txt"], "latin.txt must be a text in UTF-8"),
        (
            ["m.keras", "--images", "from_1.npz"],
            "must be classes from 0 to 2. Received: 7 other numbers, such as 3. Number the classes",
        ),
        (["m.keras", "--images", "negative.npz"], "Received: 7 other numbers, such as -1."),
        (["m.keras", "--images", "nan.npz"], "images of nan.npz must be finite numbers"),
        (["m.keras", "--images", "p", "--labels", "cat,dog,cow"], "no class of the model: hen."),
        (["m.keras", "--images", "other.npz"], "no array `x` or `x_test`, but ['z']"),
        (["m.keras", "--images", "shape.npz"], "must have the shape (12, 10, 3) of the model's"),
        (["m.keras", "--images", "labels.npz"], "one integer for each of the 7 test images"),
        (["m.keras", "--images", "texts.npz"], "one integer for each of the 7 test images"),
        (
            ["m.keras", "--images", "array.npy"],
            "but an array without a name. Give what numpy.savez",
        ),
        (["m.keras", "--images", "text.npz"], "text.npz is no file of images"),
        (
            ["m.keras", "--images", "p/cat/0.png"],
            "0.png is no file of images: give a folder of pict",
        ),
        (["m.keras", "--images", "none.npz"], "must hold at least one image"),
    ],
)
def test_refusals(tmp_path, rng, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    files(tmp_path, rng)
    before = contents(tmp_path)
    mains = (export.onnx.main, export.saved_model.main)
    for main in mains if len(arguments) > 1 else mains[:1]:
        assert message in ended(monkeypatch, capsys, main, 2, "--model", *arguments)
    assert contents(tmp_path) == before


def test_what_a_checkpoint_tells_is_not_told_twice(digits_checkpoint, monkeypatch, capsys):
    for words in (["--labels", ",".join("abcdefghij")], ["--input-range", "0", "1"]):
        line = ended(monkeypatch, capsys, export.onnx.main, 2, "--model", digits_checkpoint, *words)
        assert "--labels and --input-range must be left out" in line


def test_a_model_file_of_a_checkpoint_with_other_names(checkpoint_copy):
    loaded = checkpoint.load(checkpoint_copy / "model.keras", list("abcdefghij"))
    assert loaded.file == checkpoint_copy / "model.keras" and loaded.run["labels"][9] == "j"
    loaded = checkpoint.load(checkpoint_copy / "model.keras")
    assert loaded.file is None and loaded.folder == checkpoint_copy


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([[1.0]], "`test_images` must be an `export.images.Images`, an array, a pair"),
        (tf.data.Dataset.range(3).map(lambda x: {"x": x}), "must be a tf.data.Dataset of images"),
        (tf.data.Dataset.from_tensors(np.ones((12, 10, 3))).repeat(), "must be a finite tf.data"),
        (tf.data.Dataset.from_tensors(np.ones((12, 10, 3))).take(0), "must hold at least one"),
        (np.zeros((0, 12, 10, 3)), "must hold at least one image"),
        ((np.zeros((3, 12, 10, 3)), np.zeros(2, int)), "one integer for each of the 3 test images"),
    ],
)
def test_images_that_cannot_be_used(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(plain(), tmp_path / "m.onnx", test_images=source)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("abc", "`labels` must be a list of the classes' names"),
        ([1, 2, 3], "`labels` must be a list of the classes' names"),
        (["a", "b"], "names 2 classes, the model has 3"),
        (["a", "b", "a"], "must be different names. Received: 'a' more than once"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(small("l2"), tmp_path / "m.onnx", labels=labels)


def test_files_of_names(tmp_path):
    for content in ("a\nb c\nd\n", '["a", "b c", "d"]', "a\r\nb c\r\nd"):
        (tmp_path / "names").write_text(content, newline="")
        assert labels_argument(os.fspath(tmp_path / "names")) == ["a", "b c", "d"]
    (tmp_path / "names").write_text("é\r\nb\r\n", encoding="utf-8-sig")  # as of Windows' editor
    assert labels_argument(os.fspath(tmp_path / "names")) == ["é", "b"]
    assert labels_argument("a, b c ,d") == ["a", "b c", "d"]


def test_a_repository_of_a_single_file(tmp_path, monkeypatch, capsys):
    capsules().save(tmp_path / "my net.keras")
    words = ("--model", tmp_path / "my net.keras", "--model-repository", tmp_path / "served")
    run(monkeypatch, capsys, export.onnx.main, *words, "--labels", "cat,dog,hen")
    folder = tmp_path / "served/my_net"
    assert (folder / "labels.txt").read_text() == "cat\ndog\nhen\n"
    assert 'label_filename: "labels.txt"' in (folder / "config.pbtxt").read_text()
    words = (*words[:3], tmp_path / "unnamed")
    run(monkeypatch, capsys, export.onnx.main, *words)
    assert not (tmp_path / "unnamed/my_net/labels.txt").exists()
    assert "label" not in (tmp_path / "unnamed/my_net/config.pbtxt").read_text()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_lower_precision_by_own_pictures(tmp_path, rng, precision):
    model, folder = plain(), tmp_path / "p"
    pictures(folder / "train", rng)
    pictures(folder / "test", rng)
    options = {"precision": precision, "max_accuracy_drop": 100}
    report = export_onnx(model, tmp_path / "m.onnx", test_images=folder, **options)
    assert report.about["precision"] == precision and report.about["labels"] == NAMES
    with pytest.raises(ValueError, match="Give `test_images` with|give `test_images` with labels"):
        images_alone = Images(np.zeros((3, 12, 10, 3)))
        export_onnx(model, tmp_path / "m.onnx", test_images=images_alone, precision=precision)
