"""The exporters under one command: `kcaps onnx --model ckpt/`, or `python -m export onnx …`."""

import importlib
import sys

from export import command

COMMANDS = {
    "onnx": ("export.onnx", "export a checkpoint to a checked ONNX file"),
    "saved-model": ("export.saved_model", "export a checkpoint to a checked SavedModel"),
    "litert": ("export.litert", "export a checkpoint to a checked LiteRT file"),
    "web": ("export.web", "export a checkpoint to a checked page for browsers"),
    "predict": ("export.predict", "tell the classes of pictures by a checkpoint or an ONNX file"),
    "verify": ("export.verify", "compare an ONNX file with its checkpoint once more"),
    "benchmark": ("export.benchmark", "measure latency and throughput of an ONNX file"),
    "summary": ("export.summary", "tell accuracy and exports of a checkpoint in one line"),
}


def main() -> None:
    """Runs the program that the first word names, with the other words as its arguments."""
    command.set_up(tensorflow=False)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: kcaps COMMAND …    kcaps COMMAND --help explains one\n")
        print("\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()))
        return
    name, *words = sys.argv[1:]
    if name not in COMMANDS:
        command.fail(f"COMMAND must be one of {', '.join(COMMANDS)}. Received: {name}")
    sys.argv = [f"kcaps {name}", *words]
    importlib.import_module(COMMANDS[name][0]).main()


if __name__ == "__main__":
    main()
