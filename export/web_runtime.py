"""The runtime of a page: ONNX Runtime for browsers, of one version whose content is known."""

import argparse
import base64
import hashlib
import os
import pathlib
import re
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
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHA256 = {
    MODULE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_SECONDS = 600  # of a download
_FIX = f"give the folder of an unpacked {PACKAGE} {VERSION} by --runtime"
# An address may stand in a document and in its policy, without any mark of either. Those of this
# machine need no encryption.
_ADDRESS = re.compile(
    r"(https://[\w.-]+(?::\d+)?|http://(?:localhost|127\.0\.0\.1)(?::\d+)?)(/[\w./@%+~-]*)?",
    re.ASCII,
)


def place_of(text: str) -> pathlib.Path | str:
    """Reads an argument that is a folder, or an address, which ends in a slash then."""
    if not text.startswith(("http:", "https:")):
        return pathlib.Path(text)
    if not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be a folder or https://HOST/PATH/, received {text}")
    return text if text.endswith("/") else f"{text}/"


def describe(place: pathlib.Path | str | None) -> dict:
    """Returns what the page must know of its runtime: addresses, and the hash of a foreign file.

    Args:
        place: Address of the folder that has the files, or anything else for a page that has them.
    """
    if not isinstance(place, str):
        return {"module": f"./runtime/{MODULE}"}
    return {"module": place + MODULE, "wasm": place + WASM, "integrity": _integrity(WASM)}


def in_document(text: str, place: pathlib.Path | str | None) -> str:
    """Returns the document of a page with the runtime at an address, if that is what is given.

    Its policy then lets the page load from that host alone. Both files must have their hashes: the
    browser refuses others.
    """
    if not isinstance(place, str):
        return text
    origin = _ADDRESS.fullmatch(place)[1]
    for rule in ("script-src 'self'", "connect-src 'self'"):
        text = text.replace(rule, f"{rule} {origin}")
    is_expected = f'integrity="{_integrity(MODULE)}" crossorigin'
    module = f'<script type="module" src="{place}{MODULE}" {is_expected}></script>'
    text = text.replace(f'<link rel="modulepreload" href="runtime/{MODULE}">', module)
    is_expected = f'integrity="{_integrity(WASM)}"'
    return text.replace(f'href="runtime/{WASM}"', f'href="{place}{WASM}" {is_expected}')


def _integrity(name):
    return f"sha256-{base64.b64encode(bytes.fromhex(SHA256[name])).decode()}"


def check(place: pathlib.Path | str | None) -> None:
    """Raises a `ValueError` where `copy` would certainly fail: before anything else is done."""
    if isinstance(place, str):
        if not (_ADDRESS.fullmatch(place) and place.endswith("/")):
            raise ValueError(
                f"`runtime` must be a folder or https://HOST/PATH/. Received: {place!r}."
            )
    elif place is not None:
        _files(place)
    elif shutil.which("npm") is None:
        raise ValueError(
            f"npm is needed, to fetch {PACKAGE} {VERSION}, and is not there; or {_FIX}"
        )


def copy(place: pathlib.Path | str | None, target: pathlib.Path) -> None:
    """Writes the files of the runtime into a new folder; none, where they are at an address.

    Args:
        place: Folder that has them: of an unpacked package, its `dist`, or `runtime` of another
            page; or the address of such a folder. With None, npm fetches the package.
        target: The new folder.

    Raises:
        ValueError: if npm fails, or a file is missing or is not that of the version.
    """
    if isinstance(place, str):
        return
    if place is None:
        with tempfile.TemporaryDirectory() as folder:
            files = _of_archive(_fetched(pathlib.Path(folder)))
    else:
        files = _files(place)
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
    command = [
        shutil.which("npm"),
        "pack",
        f"{PACKAGE}@{VERSION}",
        "--ignore-scripts",
        "--loglevel=error",
    ]
    # Without a network, npm would try again for more than a minute.
    options = {"update_notifier": "false", "fetch_retries": "1", "fetch_retry_mintimeout": "2000"}
    environment = os.environ | {f"npm_config_{name}": value for name, value in options.items()}
    failure = f"npm could not fetch {PACKAGE} {VERSION}"
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env=environment, timeout=_SECONDS
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
