"""Damaged files of a checkpoint folder: one line, or a check that still passes; nothing is lost."""

import contextlib
import io
import json
import random
import shutil
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import strategies as st

import export.benchmark
import export.onnx
import export.saved_model
import small_run
from export import summary, verify
from exporting import contents
from fuzz import fuzz
from harness import checkpoints


def ended(main, *arguments):
    """Exit code of a program in this process, and what it printed on stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["program", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    return code, err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small run with its ONNX file and its SavedModel; read it only."""
    output = tmp_path_factory.mktemp("small") / "ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_run, "EPOCHS", 1)
        assert ended(lambda: small_run.run(output))[0] == 0
    (output / "report.json").write_text('{"test_accuracy": 0.5, "synthetic": false}')
    for program in (export.onnx, export.saved_model):
        assert ended(program.main, "--model", output) == (0, "")
    return output


def flipped(rng, content):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 8, 100])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def cut(rng, content):
    return content[: rng.randrange(len(content))]


def with_more(rng, content):
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.randbytes(rng.choice([1, 10, 1000])) + content[place:]


def with_less(rng, content):
    place = rng.randrange(len(content))
    return content[:place] + content[place + rng.choice([1, 10, 1000]) :]


def zeroed(rng, content):
    place, size = rng.randrange(len(content)), rng.choice([1, 16, 512])
    return content[:place] + bytes(size) + content[place + size :]


def replaced(rng, content):
    return rng.choice(
        [b"", b"\xff\xfe\x00", b"{}", b"[" * 100_000, rng.randbytes(1000), content * 2]
    )


BYTES = [flipped, cut, with_more, with_less, zeroed, replaced]


def json_value(rng):
    return rng.choice(
        [None, True, -1, 0, 2**31, 10**400, 1.5, float("nan"), float("inf"), "", "x", "../x"]
        + [[], {}, [1, [2]], {"a": [None]}, "é" * 300, [[[[]]]], ["0", "1"], {"class_name": "x"}]
    )


def changed_json(rng, content):
    """An entry at any depth removed, or with another value."""
    whole = entry = json.loads(content)
    while True:
        keys = range(len(entry)) if isinstance(entry, list) else sorted(entry)
        key = rng.choice(list(keys))
        if isinstance(entry[key], dict | list) and entry[key] and rng.random() < 0.8:
            entry = entry[key]
            continue
        if rng.random() < 0.3:
            del entry[key]
        else:
            entry[key] = json_value(rng)
        return json.dumps(whole).encode()


def changed_archive(rng, content):
    """A sound archive with another member, another name of one, or one without a piece."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    number = rng.randrange(len(members))
    name, inside = members[number]
    if name.endswith(".json") and rng.random() < 0.8:
        inside = changed_json(rng, inside)
    elif rng.random() < 0.4:
        name = rng.choice(["../evil", "/evil", "..\\evil", "C:evil", "assets/../../evil", "a", ""])
        name = rng.choice([name, members[0][0], "assets/" + name])
    else:
        inside = rng.choice(BYTES)(rng, inside)
    members[number] = name, inside
    if rng.random() < 0.1:
        members.append(rng.choice(members))
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive, contextlib.suppress(UserWarning):
        for name, inside in members:
            archive.writestr(zipfile.ZipInfo(name), inside)
    return result.getvalue()


def resume(output, epochs=1):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_run, "EPOCHS", epochs)
        return ended(lambda: small_run.run(output))


def unreported(output):
    (output / "model.onnx.json").unlink(missing_ok=True)
    return ended(verify.main, "--model", output)


READERS = {
    "verify": lambda output: ended(verify.main, "--model", output),
    "unreported": unreported,
    "summary": lambda output: ended(summary.main, "--model", output),
    "export": lambda output: ended(export.onnx.main, "--model", output, "--overwrite"),
    "export to SavedModel": lambda output: ended(
        export.saved_model.main, "--model", output, "--overwrite"
    ),
    "benchmark": lambda output: ended(
        export.benchmark.main, "--model", output, "--batch-sizes", 1, "--repeats", 1
    ),
    "resume": resume,
}
# Of each file: how it is damaged, and what reads it then.
ARCHIVE, TEXT = [*BYTES, *[changed_archive] * 12], [*BYTES, *[changed_json] * 12]
TARGETS = {
    "model.keras": (
        ARCHIVE,
        ["verify", "verify", "resume", "export", "export to SavedModel", "benchmark"],
    ),
    "run.json": (
        TEXT,
        ["verify", "summary", "resume", "export", "export to SavedModel", "benchmark"],
    ),
    "model.onnx": (BYTES, ["verify", "unreported", "unreported", "summary", "benchmark"]),
    "model.onnx.json": (TEXT, ["verify", "summary", "benchmark"]),
    "saved_model/saved_model.pb": (BYTES, ["benchmark"]),
    "saved_model/variables/variables.data-00000-of-00001": (BYTES, ["benchmark"]),
    "saved_model/variables/variables.index": (BYTES, ["benchmark"]),
    "saved_model.json": (TEXT, ["benchmark", "summary"]),
    "report.json": (TEXT, ["summary"]),
    "backup/state.h5": (BYTES, ["resume"]),
    "history.csv": (BYTES, ["resume"]),
}


@fuzz(None, 400, name=st.sampled_from(list(TARGETS)), seed=st.integers(0, 2**32))
def test_damaged_files(folder, tmp_path, name, seed):
    output = tmp_path / "ckpt"
    shutil.copytree(folder, output)
    try:
        check(folder, output, name, random.Random(seed))
    finally:
        shutil.rmtree(output)


def check(folder, output, name, rng):
    damages, readers = TARGETS[name]
    content = (output / name).read_bytes()
    damage, reader = rng.choice(damages), rng.choice(readers)
    (output / name).write_bytes(damage(rng, content))
    before = contents(output.parent)
    code, err = READERS[reader](output)
    after = contents(output.parent)
    if code:
        assert code in (1, 2), code
        assert err.startswith("error: ") and err.count("\n") == 1, err
    if code or reader in ("verify", "summary", "benchmark"):
        assert after.keys() - before.keys() == set(), "something was written"
        lost = {path for path, inside in before.items() if after.get(path) != inside}
        assert not lost - ({output / "model.onnx.json"} if reader == "unreported" else set())
    elif name == "backup/state.h5":
        old, new = (checkpoints.read_state(path / name) for path in (folder, output))
        assert old[0] == new[0]
        for key, value in old[1].items():
            np.testing.assert_array_equal(new[1][key], value)
    assert all(output in path.parents for path in after), "a file outside of the folder"
