"""Bad input to the exporters: one line, exit code 2 (1 for a failed check), nothing left behind."""

import contextlib
import io
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import onnx
import pytest

import export.graph
import export.litert
import export.onnx
import export.saved_model
from export import checkpoint, files, summary, verify
from export.onnx import export_onnx
from export.report import report_path
from exporting import ROOT, change_a_weight, contents, ended, python

MAINS = pytest.mark.parametrize(
    "main", [export.onnx.main, export.saved_model.main, export.litert.main]
)


def break_an_operator(graph):
    graph.graph.node[0].op_type = "PartitionedCall"
    return graph


def rename_an_output(graph):
    name = graph.graph.output[0].name
    graph.graph.output[0].name = "renamed"
    for node in graph.graph.node:
        for side in (node.input, node.output):
            side[:] = ["renamed" if value == name else value for value in side]
    return graph


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (change_a_weight, 1, "differs from Keras by"),
        (break_an_operator, 2, "the graph is not valid ONNX"),
    ],
)
def test_a_wrong_onnx_file_is_never_written(
    monkeypatch, checkpoint_copy, capsys, damage, code, message
):
    simplify = export.graph.simplify
    monkeypatch.setattr(export.graph, "simplify", lambda *args: damage(simplify(*args)))
    (checkpoint_copy / "model.onnx").write_bytes(b"before")
    before = contents(checkpoint_copy)
    arguments = ("--model", checkpoint_copy, "--overwrite")
    assert message in ended(monkeypatch, capsys, export.onnx.main, code, *arguments)
    assert contents(checkpoint_copy) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_weight, "differs from Keras by"),
        (break_an_operator, "ONNX Runtime cannot load the file"),
        (rename_an_output, "outputs differ: Keras has"),
    ],
)
def test_damage_in_a_written_file_is_caught(monkeypatch, checkpoint_copy, capsys, damage, message):
    path = checkpoint_copy / "model.onnx"
    loaded = checkpoint.load(checkpoint_copy)
    export_onnx(loaded.model, path, checkpoint=loaded)
    comparison, images = verify.verify_onnx(loaded.model, path, checkpoint=loaded)
    assert comparison.largest_difference <= 1e-5 and images == "360 test images of digits"
    monkeypatch.setattr("sys.argv", ["program", "--model", str(checkpoint_copy)])
    verify.main()
    assert "agrees with" in capsys.readouterr().out
    onnx.save(damage(onnx.load(path)), path)
    line = ended(monkeypatch, capsys, verify.main, 1, "--model", checkpoint_copy)
    assert "is not the one that model.onnx.json speaks of" in line
    report_path(path).unlink()  # then the values alone must show it
    assert message in ended(
        monkeypatch, capsys, verify.main, 1, "--model", checkpoint_copy, "--onnx", path
    )
    path.write_bytes(b"no file of ONNX")
    line = ended(monkeypatch, capsys, verify.main, 2, "--model", checkpoint_copy)
    assert "cannot be read as ONNX" in line


def test_an_onnx_file_with_weights_outside_is_refused(monkeypatch, checkpoint_copy, capsys):
    path = checkpoint_copy / "model.onnx"
    loaded = checkpoint.load(checkpoint_copy)
    export_onnx(loaded.model, path, checkpoint=loaded)
    report_path(path).unlink()
    proto = onnx.load(path)
    for place in ("../outside", str(checkpoint_copy.parent / "outside"), "../../../etc/passwd"):
        tensor = max(proto.graph.initializer, key=lambda x: len(x.raw_data) + len(x.external_data))
        (checkpoint_copy.parent / "outside").write_bytes(tensor.raw_data or bytes(10**6))
        del tensor.external_data[:]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        path.write_bytes(proto.SerializeToString())
        before = contents(checkpoint_copy.parent)
        line = ended(monkeypatch, capsys, verify.main, 2, "--model", checkpoint_copy)
        assert "cannot be read as ONNX" in line and contents(checkpoint_copy.parent) == before


def test_a_wrong_saved_model_is_never_written(monkeypatch, checkpoint_copy, capsys):
    monkeypatch.setattr(export.saved_model, "_serve", lambda path: lambda x: {"poses": x})
    before = contents(checkpoint_copy)
    line = ended(monkeypatch, capsys, export.saved_model.main, 1, "--model", checkpoint_copy)
    assert "outputs differ" in line and contents(checkpoint_copy) == before


def rewrite(folder, change):
    """Writes model.keras anew, with its members changed by a function of their dict."""
    path = folder / "model.keras"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(members).items():
            archive.writestr(name, content)


def change_run(folder, **entries):
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, **entries}))


def remove_run(folder):
    (folder / "run.json").unlink()


def remove_model(folder):
    (folder / "model.keras").unlink()


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def spoil_run(folder):
    (folder / "run.json").write_text('{"kcaps": ')


def binary_run(folder):
    (folder / "run.json").write_bytes(b"\xff\xfe\x00{")


def deep_run(folder):
    (folder / "run.json").write_text("[" * 100_000)


def foreign_run(folder):
    (folder / "run.json").write_text('{"model": "other"}')


def spoil_data(folder):
    change_run(folder, data={"loader": "scikit-learn", "scale": 16})


def far_test_images(folder):
    change_run(folder, data={"loader": "scikit-learn", "scale": 16, "test_indices": [10**6]})


def no_scale(folder):
    change_run(folder, data={"loader": "scikit-learn", "scale": float("nan"), "test_indices": [1]})


def unknown_loader(folder):
    change_run(folder, data={"loader": ["scikit-learn"]})


def huge_range(folder):
    change_run(folder, input_range=[10**400, 0])


def spoil_labels(folder):
    change_run(folder, labels="0123456789")


def few_labels(folder):
    change_run(folder, labels=["0", "1"])


def spoil_range(folder):
    change_run(folder, input_range=[255, 0])


def with_lambda(folder):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: x)])
    model.save(folder / "model.keras")


class Bomb:
    """An object whose unpickling writes a file."""

    def __reduce__(self):
        return (open, ("exploded", "w"))


def with_pickled_weights(folder):
    array = io.BytesIO()
    np.savez(array, bomb=np.array([Bomb()], dtype=object))

    def change(members):
        del members["model.weights.h5"]
        return members | {"model.weights.npz": array.getvalue()}

    rewrite(folder, change)


def with_pickled_asset(folder):
    rewrite(folder, lambda members: members | {"model.pkl": pickle.dumps(Bomb())})


def with_pickled_lambda(folder):
    """A config that asks for a function from marshalled code, as Keras itself once wrote them."""

    def change(members):
        config = json.loads(members["config.json"])
        layers = config["config"]["layers"]
        code = {"class_name": "__lambda__", "config": {"code": "4wAA", "defaults": None}}
        rescaling = next(x for x in layers if x["class_name"] == "Rescaling")
        rescaling |= {"class_name": "Lambda", "config": {"name": "x", "function": code}}
        return members | {"config.json": json.dumps(config)}

    rewrite(folder, change)


def calling_the_system(folder):
    """A config that names a function of the operating system as a layer."""

    def change(members):
        config = json.loads(members["config.json"])
        config |= {"module": "os", "class_name": "function", "config": "system"}
        config["registered_name"] = "function"
        return members | {"config.json": json.dumps(config)}

    rewrite(folder, change)


def climbing_out(folder):
    rewrite(folder, lambda members: members | {"../../escaped.txt": b"out"})


def absolute_path(folder):
    rewrite(folder, lambda members: members | {"/escaped.txt": b"out"})


def climbing_assets(folder):
    rewrite(folder, lambda members: members | {"assets\\..\\..\\escaped.txt": b"out"})


def without_weights(folder):
    rewrite(folder, lambda members: {"config.json": members["config.json"]})


def outside_weights(folder):
    """Weights that are a link to another file."""

    def change(members):
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file["layers"] = h5py.ExternalLink("/etc/passwd", "/layers")
        return members | {"model.weights.h5": content.getvalue()}

    rewrite(folder, change)


def weights_elsewhere(folder):
    """The same weights, linked to in a valid file beside the archive."""

    def change(members):
        (folder / "outside.h5").write_bytes(members["model.weights.h5"])
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file["layers"] = h5py.ExternalLink(str(folder / "outside.h5"), "/layers")
        return members | {"model.weights.h5": content.getvalue()}

    rewrite(folder, change)


def weights_of_raw_bytes(folder):
    """A weight whose numbers HDF5 would read from any file."""

    def change(members):
        (folder / "secret").write_bytes(bytes(10**6))
        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            found = []
            file.visititems(lambda name, x: found.append(x) if hasattr(x, "shape") else None)
            name, shape, size = found[0].name, found[0].shape, found[0].nbytes
            del file[name]
            file.create_dataset(name, shape, "f4", external=[(str(folder / "secret"), 0, size)])
        return members | {"model.weights.h5": content.getvalue()}

    rewrite(folder, change)


def linked_asset(folder):
    """A member that an unpacking program makes a link to a folder outside."""
    with zipfile.ZipFile(folder / "model.keras", "a") as archive:
        link = zipfile.ZipInfo("assets/link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/tmp")


def with_class(module, name):
    """A config that names any class as the model."""

    def damage(folder):
        def change(members):
            config = json.loads(members["config.json"])
            config |= {"module": module, "class_name": name, "registered_name": None}
            return members | {"config.json": json.dumps(config)}

        rewrite(folder, change)

    damage.__name__ = f"{module}.{name}"
    return damage


def damaged_byte(folder):
    content = bytearray((folder / "model.keras").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "model.keras").write_bytes(content)


def with_weight(value):
    def damage(folder):
        model = keras.saving.load_model(folder / "model.keras")
        kernel = model.get_layer("digit_caps").kernel
        array = keras.ops.convert_to_numpy(kernel).copy()
        array[0, 0, 0, 0] = value
        kernel.assign(array)
        model.save(folder / "model.keras")

    damage.__name__ = f"with_{value}"
    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (empty, "it has no run.json"),
        (remove_run, "it has no run.json"),
        (remove_model, "without model.keras"),
        (spoil_run, "run.json cannot be read"),
        (binary_run, "run.json cannot be read"),
        (deep_run, "run.json cannot be read"),
        (foreign_run, "was not written by a kcaps recipe"),
        (spoil_data, "does not say where its test images are"),
        (far_test_images, "does not say where its test images are"),
        (no_scale, "does not say where its test images are"),
        (unknown_loader, "the 'loader' of its data must be one of"),
        (huge_range, "'input_range' must be two numbers"),
        (spoil_labels, "'labels' must be a list"),
        (few_labels, "names 2 labels, the model has 10 classes"),
        (spoil_range, "'input_range' must be two numbers"),
        (with_lambda, "it is disallowed by default. Train one with"),
        (with_pickled_lambda, "cannot be loaded safely"),
        (with_pickled_weights, "Keras does not write its member 'model.weights.npz'"),
        (with_pickled_asset, "Keras does not write its member 'model.pkl'"),
        (calling_the_system, "cannot be loaded safely"),
        (climbing_out, "climbs out of the archive"),
        (absolute_path, "climbs out of the archive"),
        (climbing_assets, "climbs out of the archive"),
        (without_weights, "it has 0 members"),
        (outside_weights, "cannot be loaded safely"),
        (weights_elsewhere, "cannot be loaded safely"),
        (weights_of_raw_bytes, "cannot be loaded safely"),
        (linked_asset, "is a link"),
        (with_class("os", "system"), "cannot be loaded safely"),
        (with_class("builtins", "eval"), "cannot be loaded safely"),
        (with_class("nowhere.at_all", "Thing"), "cannot be loaded safely"),
        (damaged_byte, "is damaged"),
        (with_weight(np.nan), "has a weight that is not finite"),
        (with_weight(-np.inf), "has a weight that is not finite"),
    ],
)
def test_bad_checkpoints(monkeypatch, checkpoint_copy, tmp_path, capsys, damage, message):
    monkeypatch.chdir(tmp_path)
    damage(checkpoint_copy)
    before = contents(tmp_path)
    for main in (export.onnx.main, export.saved_model.main):
        assert message in ended(monkeypatch, capsys, main, 2, "--model", checkpoint_copy)
    assert contents(tmp_path) == before


def test_a_model_file_cut_anywhere(monkeypatch, checkpoint_copy, capsys):
    path = checkpoint_copy / "model.keras"
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 50).astype(int):
        path.write_bytes(content[:length])
        line = ended(monkeypatch, capsys, export.onnx.main, 2, "--model", checkpoint_copy)
        assert "is damaged" in line
    assert not (checkpoint_copy / "model.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opset", "99"], "`opset` must be from 13 to 18"),
        (["--opset", "x"], "argument --opset: invalid int value"),
        (["--tolerance", "0"], "argument --tolerance: must be positive"),
        (["--tolerance", "nan"], "argument --tolerance: must be positive"),
        (["--precision", "int3"], "argument --precision: invalid choice: 'int3'"),
        (["--provider", "abacus"], "argument --provider: invalid choice: 'abacus'"),
        (["--batch-size", "-1"], "argument --batch-size: must be positive"),
        (["--max-accuracy-drop", "-1"], "`max_accuracy_drop` must be from 0 to 100"),
        (["--max-accuracy-drop", "nan"], "`max_accuracy_drop` must be from 0 to 100"),
        (["--max-accuracy-drop", "1"], "--max-accuracy-drop must be left out: a float32 file"),
        (["--limit", "0"], "argument --limit: must be positive"),
        (["--output", "a", "--model-repository", "b"], "--output or --model-repository"),
        (["--output", "/dev/null/model.onnx"], "/dev/null/model.onnx cannot be written"),
        (["--output", "/proc/model.onnx"], "/proc/model.onnx cannot be written"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_bad_arguments(monkeypatch, digits_checkpoint, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = contents(digits_checkpoint)
    line = ended(monkeypatch, capsys, export.onnx.main, 2, "--model", digits_checkpoint, *arguments)
    assert message in line
    assert contents(digits_checkpoint) == before and not list(tmp_path.iterdir())


def test_bad_options_of_the_functions(tmp_path):
    for options, message in (
        ({"opset": 12}, "`opset` must be from 13 to 18"),
        ({"opset": "18"}, "`opset` must be from 13 to 18"),
        ({"precision": "int3"}, "`precision` must be one of"),
        ({"batch_size": 2**40}, "`batch_size` must be an integer from 1"),
        ({"tolerance": "x"}, "`tolerance` must be a positive number"),
        ({"batch_size": 0}, "`batch_size` must be an integer from 1"),
        ({"tolerance": float("nan")}, "`tolerance` must be a positive number"),
        ({"provider": "abacus"}, "`provider` must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            export_onnx(keras.Sequential(), tmp_path / "model.onnx", **options)
    with pytest.raises(TypeError, match="unknown"):
        export_onnx(keras.Sequential(), tmp_path / "model.onnx", unknown=1)


@MAINS
def test_an_existing_output_needs_overwrite(monkeypatch, checkpoint_copy, capsys, main):
    arguments = ("--model", checkpoint_copy, "--limit", 20)
    monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
    main()
    before = contents(checkpoint_copy)
    assert "Replace it with --overwrite" in ended(monkeypatch, capsys, main, 2, *arguments)
    assert contents(checkpoint_copy) == before
    monkeypatch.setattr("sys.argv", ["program", *map(str, arguments), "--overwrite"])
    main()
    assert contents(checkpoint_copy).keys() == before.keys()


@MAINS
def test_the_checkpoint_is_no_output(monkeypatch, checkpoint_copy, capsys, main):
    before = contents(checkpoint_copy)
    arguments = ("--model", checkpoint_copy, "--overwrite", "--output")
    for name in ("model.keras", "run.json", "run", "report", "backup/x.onnx"):
        line = ended(monkeypatch, capsys, main, 2, *arguments, checkpoint_copy / name)
        assert "the checkpoint itself" in line
    assert contents(checkpoint_copy) == before


def test_other_folders_are_not_replaced(monkeypatch, checkpoint_copy, tmp_path, capsys):
    (tmp_path / "precious").mkdir()
    arguments = ("--model", checkpoint_copy, "--overwrite", "--output", tmp_path / "precious")
    line = ended(monkeypatch, capsys, export.saved_model.main, 2, *arguments)
    assert "is not a SavedModel" in line and (tmp_path / "precious").is_dir()
    line = ended(monkeypatch, capsys, export.onnx.main, 2, *arguments)
    assert "is a folder" in line and (tmp_path / "precious").is_dir()


FULL_DISK = """
import resource, sys
import {module} as program
from export.command import set_up
set_up("tensorflow")
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
sys.argv = ["program", "--model", "ckpt", "--overwrite", *{arguments}]
program.main()
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("export.onnx", "model.onnx", []),
        ("export.onnx", "model.onnx", ["--precision", "int8"]),
        ("export.saved_model", "saved_model", []),
    ],
)
def test_full_disk(checkpoint_copy, tmp_path, module, name, arguments):
    """Writing stops at a size, as it does where a disk is full."""
    old = checkpoint_copy / name
    if name == "saved_model":
        old.mkdir()
        old /= "saved_model.pb"
    old.write_bytes(b"before")
    before = contents(tmp_path)
    code = FULL_DISK.format(module=module, size=100_000, arguments=arguments)
    result = python("-c", code, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "cannot be written" in result.stderr
    assert contents(tmp_path) == before


def test_what_lies_beside_needs_overwrite_too(monkeypatch, checkpoint_copy, tmp_path, capsys):
    (checkpoint_copy / "model.onnx.json").write_text("precious")
    (checkpoint_copy / "saved_model.json").symlink_to(tmp_path / "nowhere")
    config = tmp_path / "models/digits/config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text("precious")
    before = contents(tmp_path)
    for main, *arguments in (
        (export.onnx.main,),
        (export.saved_model.main,),
        (export.onnx.main, "--model-repository", config.parents[1]),
    ):
        line = ended(monkeypatch, capsys, main, 2, "--model", checkpoint_copy, *arguments)
        assert "Replace it with --overwrite" in line
        assert contents(tmp_path) == before


def test_ctrl_c_is_one_line_in_any_program():
    script = (
        "from export import command; command.set_up(tensorflow=False);"
        "command.tell_how_to_resume('the same command goes on'); raise {}"
    )
    for error, code, message in (
        ("KeyboardInterrupt", -signal.SIGINT, "error: interrupted; the same command goes on\n"),
        ("RuntimeError('of a bug')", 1, "Traceback"),
    ):
        command = [sys.executable, "-c", script.format(error)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert result.returncode == code and result.stderr.startswith(message)


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("step", range(5))
def test_all_files_are_put_in_place_or_none(monkeypatch, tmp_path, stop, step):
    """Whatever stops it, at whichever of its steps."""
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/content").write_text("old")
    before, real, calls = contents(tmp_path), os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == step + 1:
            raise stop
        real(source, target)

    places = [tmp_path / name for name in ("file", "folder", "fresh", "fresh_folder")]
    is_stopped = step < len(places)
    with (
        pytest.raises(stop) if is_stopped else contextlib.nullcontext(),
        files.aside(places, overwrite=True) as folder,
    ):
        new = {place: folder / place.name for place in places}
        for made in new.values():
            if "folder" in made.name:
                made.mkdir()
                made /= "content"
            made.write_text("new")
        monkeypatch.setattr(files.os, "replace", replace)
        files.put(new, folder)
    if is_stopped:
        assert contents(tmp_path) == before
        assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
    else:
        assert list(contents(tmp_path).values()) == [b"new"] * 4
        assert {path.name for path in tmp_path.iterdir()} == {place.name for place in places}


def test_missing_folders_are_made_and_unmade(tmp_path):
    path = tmp_path / "a/b/c"
    with pytest.raises(RuntimeError), files.aside([path, tmp_path / "d/e"], overwrite=False):
        raise RuntimeError("stopped")
    assert not list(tmp_path.iterdir())


STOPPED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
import export.onnx as program
from export.command import set_up
set_up("tensorflow")
import onnx
real = onnx.save
def save(*args):
    real(*args)
    os.kill(os.getpid(), {number})
onnx.save = save
sys.argv = ["program", "--model", "ckpt"]
program.main()
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_program_leaves_nothing(checkpoint_copy, tmp_path, number):
    before = contents(tmp_path)
    result = python("-c", STOPPED.format(number=int(number)), cwd=tmp_path)
    assert result.returncode == 128 + number, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert contents(tmp_path) == before
    assert not [path for path in checkpoint_copy.iterdir() if path.name.startswith(".")]


def test_a_program_chooses_its_backend(monkeypatch, checkpoint_copy, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    result = python("-m", "export.onnx", "--model", "ckpt", "--limit", 5, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_summary_of_bad_folders(monkeypatch, checkpoint_copy, tmp_path, capsys):
    line = ended(monkeypatch, capsys, summary.main, 2, "--model", tmp_path / "nowhere")
    assert "it has no model.keras" in line
    (checkpoint_copy / "report.json").write_text("[]")
    assert "no summary" in ended(monkeypatch, capsys, summary.main, 2, "--model", checkpoint_copy)
