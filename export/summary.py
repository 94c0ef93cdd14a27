"""One line on a checkpoint folder: its accuracy, its exports, and how exact they are.

python -m export.summary --model ckpt/
"""

import json
import os
import pathlib
import re
import sys

from export.command import Parser, fail, set_up
from export.report import report_path

EXPORTS = ("model.onnx", "saved_model", "model.tflite", "web")


def summarize(folder: str | os.PathLike) -> str:
    """Returns the line for a checkpoint folder; what is not there is left out.

    Raises:
        ValueError: if the folder holds no model, or a report in it is damaged.
    """
    folder = pathlib.Path(folder)
    if not (folder / "model.keras").is_file():
        raise ValueError(f"{folder} is not a checkpoint folder: it has no model.keras")
    parts = []
    if (folder / "report.json").is_file():
        report = json.loads((folder / "report.json").read_text())
        synthetic = " (synthetic data)" if report["synthetic"] else ""
        parts.append(f"test accuracy {100 * _number(report, 'test_accuracy', 1):.2f} %{synthetic}")
    onnx_report = report_path(folder / "model.onnx")
    if onnx_report.is_file():
        report = json.loads(onnx_report.read_text())
        difference = _number(report, "largest_difference", sys.float_info.max)
        parts.append(f"largest difference Keras to ONNX Runtime {difference:.1e}")
        if report.get("half_precision"):
            parts.append(_accuracies(report))
        parts += [f"warning: {line}" for line in report.get("warnings", [])]
    files = [name for name in ("model.keras", *EXPORTS) if (folder / name).exists()]
    parts.append("files: " + ", ".join(str(folder / name) for name in files))
    return " · ".join(parts)


def _accuracies(report):
    """Returns a part on a file whose model computes in half precision, as its report tells it."""
    dtype = report["half_precision"]["dtype"]
    if not isinstance(dtype, str) or not re.fullmatch("[a-z0-9 ]{1,30}", dtype):
        raise ValueError(f"'dtype' must be the name of a dtype, received {dtype!r:.80}")
    text = f"computed in {dtype} by Keras, exported in float32"
    if report["accuracy"] is None:
        return text
    shares = [100 * _number(report["accuracy"], name, 1) for name in ("before", "after")]
    return f"{text}: test accuracy {shares[0]:.2f} % before, {shares[1]:.2f} % after"


def _number(report, name, largest):
    value = report[name]
    if type(value) not in (int, float) or not 0 <= value <= largest:
        raise ValueError(f"{name!r} must be from 0 to {largest:g}, received {value!r:.80}")
    return value


def main() -> None:
    set_up(tensorflow=False)
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="checkpoint folder")
    folder = parser.parse_args().model
    try:
        print(summarize(folder))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        fail(f"no summary of {folder}: {error}")


if __name__ == "__main__":
    main()
