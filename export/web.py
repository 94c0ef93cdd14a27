"""Export of Keras models with kcaps layers to a page that computes them in a browser.

python -m export.web --model ckpt/
python -m http.server -d ckpt/web
"""

import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from export import command, pipeline
from export.checkpoint import Checkpoint
from export.images import Images
from export.report import Report
from export.source import Source

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


def export_web(
    model: "keras.Model",
    path: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
    test_images: "Images | np.ndarray | tuple | tf.data.Dataset | str | os.PathLike | None" = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[str], object] | None = None,
    runtime: str | os.PathLike | None = None,
    objects: int | None = None,
    has_browser: bool = True,
    tolerance: float = 1e-5,
    overwrite: bool = True,
) -> Report:
    """Writes a folder of static files: a page on which a model is drawn for, and looked into.

    The folder has the model and, if there is one, its decoder as ONNX files, test images, and ONNX
    Runtime for browsers. The files are compared with the model in ONNX Runtime, and the page is
    opened in a headless Chromium, whose outputs for the page's images are compared, too; only then
    does the folder appear at `path`, with a report `path.json` beside it.

    Args:
        model: A functional Keras model whose input is an image of one or three channels.
        path: Path of the folder to write.
        labels, input_range, test_images: As for `export.onnx.export_onnx`.
        checkpoint: The `export.checkpoint.Checkpoint` of the model. Defaults to None.
        on_step: Function of one line, called after each step. Defaults to None.
        runtime: Folder of the unpacked package onnxruntime-web, or an address `"https://…/"` at
            which its files are. Defaults to None: npm fetches it.
        objects: How many classes are in one picture. Defaults to None: 2 for a checkpoint of
            overlapping digits, 1 for all others.
        has_browser: Whether the page is opened in a browser, if there is one. Defaults to True.
        tolerance: Largest absolute difference to Keras that passes. Defaults to 1e-5.
        overwrite: Whether an existing page may be replaced. Defaults to True.

    Returns:
        An `export.report.Report`. Its `about["is_checked_in_browser"]` tells whether there was a
        browser.

    Raises:
        ValueError: for a model that cannot be exported, a runtime that is not there or another one,
            or an existing folder that may not be replaced.
        OSError: if `path` cannot be written.
        ParityError: if a file or the page does not compute the same; nothing is written.
    """
    from export import web_runtime
    from export.web_target import Web

    target = Web(
        runtime=None if runtime is None else web_runtime.place_of(os.fspath(runtime)),
        objects=objects,
        has_browser=has_browser,
        tolerance=tolerance,
        overwrite=overwrite,
        labels=labels,
        input_range=input_range,
    )
    return target.export(model, path, test_images, checkpoint, on_step)


def main() -> None:
    command.set_up("tensorflow")
    from export import web_runtime
    from export.web_target import Web

    parser = pipeline.export_parser(__doc__, "web/")
    parser.add_argument(
        "--runtime",
        type=web_runtime.place_of,
        help="folder of the unpacked package onnxruntime-web, or https://HOST/PATH/ for readers "
        "with a network; default: npm fetches it",
    )
    parser.add_argument(
        "--objects",
        type=command.positive(int),
        help="how many classes are in one picture; default: 2 for overlapping digits, otherwise 1",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="do not open the page in a browser to check it"
    )
    parser.refuse(["--with-decoder"], None, "a page has a decoder wherever its model has one")
    args = vars(parser.parse_args())
    source, output = Source.of_arguments(args), args.pop("output")
    has_browser = not args.pop("no_browser")
    target = Web(**args, has_browser=has_browser)
    path, report = pipeline.export_checkpoint(target, source, output)
    unchecked = "" if report.about["is_checked_in_browser"] else f" ({report.about['browser']})"
    print(f"show it by: python -m http.server -d {shlex.quote(os.fspath(path))}{unchecked}")


if __name__ == "__main__":
    main()
