"""The runtime of a page: ONNX Runtime for browsers, of one version whose content is known."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# Of the package's archive, as its registry tells it, and of the files in it that a page needs.
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
MODULE = "ort.wasm.bundle.min.mjs"
SHA256 = {
    MODULE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
_SECONDS = 600  # of a download
_FIX = f"give the folder of an unpacked {PACKAGE} {VERSION} by --runtime"


def check(folder: pathlib.Path | None) -> None:
    """Raises a `ValueError` where `copy` would certainly fail: before anything else is done."""
    if folder is not None:
        _files(folder)
    elif shutil.which("npm") is None:
        raise ValueError(
            f"npm is needed, to fetch {PACKAGE} {VERSION}, and is not there; or {_FIX}"
        )


def copy(folder: pathlib.Path | None, target: pathlib.Path) -> None:
    """Writes the files of the runtime into a new folder.

    Args:
        folder: Folder that has them: of an unpacked package, its `dist`, or `runtime` of another
            page. With None, npm fetches the package.
        target: The new folder.

    Raises:
        ValueError: if npm fails, or a file is missing or is not that of the version.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            files = _of_archive(_fetched(pathlib.Path(place)))
    else:
        files = _files(folder)
    target.mkdir()
    for name, content in files.items():
        (target / name).write_bytes(content)


def _files(folder):
    """Returns the content of the files in a folder, or in its `dist`, by their names."""
    place = folder / "dist" if (folder / "dist").is_dir() else folder
    try:
        files = {name: (place / name).read_bytes() for name in SHA256}
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}; {_FIX}") from error
    return _checked(files, place)


def _checked(files, source):
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise ValueError(f"{name} of {source} is not that of {PACKAGE} {VERSION}; {_FIX}")
    return files


def _fetched(folder):
    """Has npm fetch the package's archive into a folder; returns the content of the archive."""
    command = [shutil.which("npm"), "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent"]
    quiet = {**os.environ, "npm_config_update_notifier": "false"}
    failure = f"npm could not fetch {PACKAGE} {VERSION}"
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env=quiet, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{failure}: {error}; or {_FIX}") from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"code {done.returncode}"]
        raise ValueError(f"{failure}: {lines[0][:200]}; or {_FIX}")
    content = archives[0].read_bytes()
    if hashlib.sha512(content).hexdigest() != SHA512:
        raise ValueError(f"{failure}: what came has another SHA-512 than its registry told; {_FIX}")
    return archives[0]


def _of_archive(path):
    """Returns the content of the files in a package's archive, by their names."""
    with tarfile.open(path) as archive:
        files = {name: archive.extractfile(f"package/dist/{name}").read() for name in SHA256}
    return _checked(files, path.name)
