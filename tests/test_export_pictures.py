"""Pictures in files: their pixels, equal to those of Keras' own loader, and their folders."""

import io
import os

import keras
import numpy as np
import pytest
from PIL import Image

from export.pictures import (
    class_folders,
    picture_files,
    read_picture,
    read_pictures,
    split_folders,
)

MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}
SIZES = [(13, 9), (23, 31), (40, 64), (7, 50)]  # one of them the picture's own


def pixels(rng, height=23, width=31, channels=3):
    """Smooth pixels, which JPEG keeps, with some noise."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    waves = [np.sin(x * (1 + k)) * np.cos(y * (2 - k / 2)) for k in range(channels)]
    noise = rng.uniform(-15, 15, (height, width, channels))
    return (127 + 100 * np.stack(waves, -1) + noise).clip(0, 255).astype("uint8")


def saved(folder, rng, kind):
    """Saves a picture of a kind; returns its path."""
    image = Image.fromarray(pixels(rng))
    path = folder / f"{kind}.png"
    if kind == "grey":
        image = image.convert("L")
    elif kind == "palette":
        image = image.quantize(20)
    elif kind == "bits":
        image = image.convert("1")
    elif kind == "alpha":
        image = Image.fromarray(pixels(rng, channels=4), "RGBA")
    elif kind == "grey with alpha":
        image = Image.fromarray(pixels(rng, channels=2), "LA")
    elif kind == "cmyk":
        image, path = image.convert("CMYK"), folder / "cmyk.jpg"
    elif kind in ("jpeg", "turned"):
        path = folder / f"{kind}.jpeg"
    elif kind in ("bmp", "gif"):
        path = folder / f"{kind}.{kind.upper()}"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(path, **({"exif": exif} if kind == "turned" else {}))
    return path


KINDS = ("colour", "grey", "palette", "bits", "alpha", "grey with alpha", "cmyk", "jpeg", "turned")


@pytest.mark.parametrize("kind", [*KINDS, "bmp", "gif"])
def test_pixels_are_those_of_the_loader_of_keras(tmp_path, rng, kind):
    path = saved(tmp_path, rng, kind)
    for channels, mode in MODES.items():
        for size in SIZES:
            for fit in ("stretch", "crop"):
                expected = keras.utils.load_img(
                    path, mode, size, interpolation="bilinear", keep_aspect_ratio=fit == "crop"
                )
                expected = keras.utils.img_to_array(expected)
                found = read_picture(path, size, channels, fit)
                assert found.shape == (*size, channels) and found.dtype == np.uint8
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(20, 60), (60, 20)])
def test_black_bars_on_both_sides(tmp_path, rng, size):
    path = tmp_path / "x.png"
    Image.fromarray(pixels(rng, 10, 10)).save(path)
    found = read_picture(path, size, 3, "pad")
    inner = found[:, 20:40] if size == (20, 60) else found[20:40]
    np.testing.assert_array_equal(inner, read_picture(path, (20, 20), 3))
    bars = found[:, np.r_[:20, 40:60]] if size == (20, 60) else found[np.r_[:20, 40:60]]
    assert not bars.any()


def test_greyscale_of_16_bits_is_scaled_to_8(tmp_path):
    deep = np.arange(12 * 10, dtype="uint16").reshape(12, 10) * 546
    deep[0, 0] = 65535
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = np.round(deep[..., None] / 257)
    assert expected.max() == 255
    for channels in (1, 3):
        found = read_picture(tmp_path / "deep.png", (12, 10), channels)
        np.testing.assert_array_equal(found, np.broadcast_to(expected, (12, 10, channels)))


def test_images_of_pillow_and_bytes(tmp_path, rng):
    image = Image.fromarray(pixels(rng))
    image.save(tmp_path / "x.png")
    for picture in (image, io.BytesIO((tmp_path / "x.png").read_bytes()), str(tmp_path / "x.png")):
        np.testing.assert_array_equal(read_picture(picture, (23, 31), 3), np.asarray(image))


def spoiled(folder, kind, rng):
    path = folder / f"{kind}.png"
    Image.fromarray(pixels(rng)).save(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "tiff":
        Image.fromarray(pixels(rng)).save(path, format="TIFF")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "cannot be read as a picture: "),
        ("text", "it is not BMP, GIF, JPEG or PNG, or it is damaged"),
        ("empty", "it is not BMP, GIF, JPEG or PNG, or it is damaged"),
        ("tiff", "it is not BMP, GIF, JPEG or PNG, or it is damaged"),
        ("folder", "cannot be read as a picture: Is a directory"),
        ("missing", "missing.png does not exist"),
    ],
)
def test_bad_files(tmp_path, rng, kind, message):
    path = spoiled(tmp_path, kind, rng)
    with pytest.raises(ValueError, match=message) as error:
        read_picture(path, (8, 8), 3)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_picture_of_enormous_size_is_not_decoded(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # it has 713
    path = saved(tmp_path, rng, "colour")
    with pytest.raises(ValueError, match="DecompressionBombWarning"):
        read_picture(path, (8, 8), 3)


def test_the_first_bad_files_are_named_and_the_others_counted(tmp_path, rng):
    good = saved(tmp_path, rng, "colour")
    bad = [tmp_path / f"none{number}.png" for number in range(5)]
    with pytest.raises(ValueError) as error:
        read_pictures([bad[0], good, *bad[1:]], (8, 8), 3)
    expected = "; ".join(f"{path} does not exist" for path in bad[:3]) + "; and 2 more"
    assert str(error.value) == expected
    found = read_pictures([good, good], (8, 9), 1)
    assert found.shape == (2, 8, 9, 1)
    np.testing.assert_array_equal(found[1], read_picture(good, (8, 9), 1))


def test_arguments_that_cannot_be_used(tmp_path, rng):
    path = saved(tmp_path, rng, "colour")
    with pytest.raises(ValueError, match=r"`channels` must be one of \[1, 3, 4\]. Received: 2"):
        read_picture(path, (8, 8), 2)
    with pytest.raises(ValueError, match="`fit` must be one of .* Received: 'fill'"):
        read_picture(path, (8, 8), 3, "fill")


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_links(tmp_path):
    """Files and folders may be links; those that lead back to where they are give nothing anew."""
    make_files(tmp_path, "real/1.png", "real/inner/2.png", "other/3.png")
    for place, target in {
        "real/again": "real",
        "real/inner/up": "real",
        "real/out": "other",
        "other/back": "real",
        "a": "real",
    }.items():
        (tmp_path / place).symlink_to(tmp_path / target)
    (tmp_path / "real/4.png").symlink_to(tmp_path / "other/3.png")
    for name in ("real", "a"):
        found = [str(x.relative_to(tmp_path / name)) for x in picture_files(tmp_path / name)]
        assert found == ["1.png", "4.png", "inner/2.png", "out/3.png"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test"), {"train": "train", "test": "test"}),
        (("Training", "Testing"), {"train": "Training", "test": "Testing"}),
        (("train", "valid"), {"train": "train", "validation": "valid"}),
        (("train",), {"train": "train"}),
        (("test", "val"), {}),
        (("train", "bus"), {}),
        (("train", "test", "bus"), "must have its splits alone, test, train. Received: bus beside"),
        (("train", "val", "valid"), "must have one folder of validation pictures. Received: "),
    ],
)
def test_folders_of_splits(tmp_path, names, expected):
    make_files(tmp_path, *(f"{name}/{x}/1.png" for name in names for x in ("a", "b")))
    (tmp_path / ".git").mkdir()
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            split_folders(tmp_path)
    else:
        assert split_folders(tmp_path) == {x: tmp_path / name for x, name in expected.items()}


def test_classes_may_be_called_as_splits_are(tmp_path):
    make_files(tmp_path, "train/1.png", "test/1.png", "bus/1.png")
    assert split_folders(tmp_path) == {}


def test_folders_are_read_in_the_order_of_the_loader_of_keras(tmp_path):
    names = ("b/2.png", "b/10.PNG", "b/inner/x.jpg", "b/inner.png", "a/z.gif", "C/q.jpeg")
    others = ("b/notes.txt", "b/.hidden.png", ".git/x.png", "loose.png", "b/.cache/y.png")
    for name in (*names, *others):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    found = class_folders(tmp_path)
    assert list(found) == sorted(["C", "a", "b", "empty"]) and found["empty"] == []
    paths = [str(path.relative_to(tmp_path)) for part in found.values() for path in part]
    assert paths == ["C/q.jpeg", "a/z.gif", "b/10.PNG", "b/2.png", "b/inner.png", "b/inner/x.jpg"]
    assert [os.fspath(x) for x in picture_files(tmp_path / "b")][0].endswith("b/10.PNG")
