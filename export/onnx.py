"""Export of Keras models with kcaps layers to ONNX, checked in ONNX Runtime.

python -m export.onnx --model ckpt/
"""

import collections
import dataclasses
import json
import math
import pathlib

from export import command

with command.required(__name__ == "__main__"), command.quiet_tensorflow(__name__ == "__main__"):
    import tensorflow  # noqa: F401

with command.required(__name__ == "__main__"):
    import onnx
    import onnxruntime
    import onnxslim
    import tf2onnx

    import kcaps
    from export import files, graph, images, precision, program, runtime, serving
    from export.checkpoint import file_hash
    from export.fold import fold
    from export.inference import inference_model
    from export.report import Report, Steps, compared
    from export.verify import accept, compare_session, open_verified

OPSETS = range(13, 19)
MAX_BATCH_SIZE = 65_536


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `export_onnx`, and of the command line.

    Args:
        opset: Version of the ONNX operator set, from 13 to 18.
        batch_size: The only batch size of the file, or None for any.
        precision: `"float32"`, `"float16"` (convolutions and products) or `"int8"`
            (convolutions).
        max_accuracy_drop: Points of test accuracy that float16 and int8 may lose. Defaults to
            None: 0.1 for float16, 0.5 for int8.
        provider: `"cpu"`, `"cuda"` or `"tensorrt"`: where the file is verified.
        with_decoder: Whether the file has the output `reconstruction`.
        tolerance: Largest absolute difference to Keras that passes in float32; the relative one
            that passes follows from it (`export.parity.relative_limit`).
        overwrite: Whether an existing file may be replaced.
    """

    opset: int = 18
    batch_size: int | None = None
    precision: str = "float32"
    max_accuracy_drop: float | None = None
    provider: str = "cpu"
    with_decoder: bool = False
    tolerance: float = 1e-5
    overwrite: bool = True

    def __post_init__(self):
        if type(self.opset) is not int or self.opset not in OPSETS:
            raise ValueError(f"`opset` must be from 13 to 18. Received: opset={self.opset!r}.")
        if self.precision not in precision.PRECISIONS:
            raise ValueError(
                f"`precision` must be one of {list(precision.PRECISIONS)}. "
                f"Received: precision={self.precision!r}."
            )
        size = self.batch_size
        if size is not None and (type(size) is not int or not 0 < size <= MAX_BATCH_SIZE):
            raise ValueError(
                f"`batch_size` must be an integer from 1 to {MAX_BATCH_SIZE:,}. Received: {size!r}."
            )
        if type(self.tolerance) not in (int, float) or not 0 < self.tolerance < math.inf:
            raise ValueError(
                f"`tolerance` must be a positive number. Received: {self.tolerance!r}."
            )
        precision.check_drop(self.max_accuracy_drop)


def export_onnx(model, path, test_images=None, checkpoint=None, on_step=None, **options):
    """Writes an ONNX file that is known to compute what the Keras model does.

    Routing coefficients are multiplied into kernels, the graph is traced, converted, simplified,
    checked, opened in ONNX Runtime and compared with the model at batch sizes 1, 7 and 64. Only
    then does the file appear at `path`, with a report `path.json` beside it. The same model gives
    the same file, byte for byte.

    Args:
        model: A functional Keras model with one input.
        path: Path of the file to write.
        test_images: An `export.images.Images` to compare on. float16 needs labels in it, int8
            training images too. Defaults to None: those of the checkpoint's data set, or random
            ones.
        checkpoint: The `export.checkpoint.Checkpoint` of the model: its labels, recipe and hash go
            into the file's metadata. Defaults to None.
        on_step: Function of one line, called after each step. Defaults to None.
        **options: Fields of `export.onnx.Options`, e.g. `precision="float16"`.

    Returns:
        An `export.report.Report`. Its `warnings` name outputs that hardly vary over the images, as
        those of a dead model do not; a file that agrees on them is written all the same.

    Raises:
        ValueError: for a model that cannot be exported, or cannot be computed on the images, an
            option that cannot be met, or an existing file that may not be replaced.
        OSError: if `path` cannot be written.
        ParityError: if the file does not load, does not compute the same, or loses too much
            accuracy; nothing is written.

    Example:

    >>> report = export_onnx(model, "model.onnx")
    >>> report.largest_difference <= 1e-5
    True
    """
    return _export(
        pathlib.Path(path), model, test_images, checkpoint, Steps(on_step), Options(**options)
    )


def _export(path, model, test_images, checkpoint, steps, options, more_files=None):
    """`export_onnx`; `more_files` has paths of further files, and functions that make their texts
    from the graph.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the path of a file.")
    runtime.check_provider(options.provider)
    reference = inference_model(model, options.with_decoder)
    run = checkpoint.run if checkpoint else {}
    test_images = images.choose(test_images, checkpoint, reference.inputs[0])
    _check_judged(test_images, options.precision)
    more_files = more_files or {}
    places = [path, files.report_path(path), *more_files]
    with files.aside(places, options.overwrite) as folder:
        proto = _build(reference, run, checkpoint, test_images, folder, steps, options)
        new = folder / "new.onnx"
        onnx.save(proto, new)
        session = open_verified(new, options.provider)
        steps("open", f"ONNX Runtime {onnxruntime.__version__}, {session.get_providers()[0]}")
        comparison = compare_session(
            reference,
            session,
            test_images,
            options.precision,
            options.tolerance,
            options.batch_size,
        )
        accept(comparison, options.precision, options.max_accuracy_drop)
        steps("compare", compared(test_images, comparison))
        report = Report(
            steps.done, comparison, str(test_images), _about(proto, new, checkpoint, options)
        )
        texts = [report.json(), *(text(proto) for text in more_files.values())]
        for number, text in enumerate(texts):
            (folder / f"text{number}").write_text(text, encoding="utf-8")
        made = [new, *(folder / f"text{number}" for number in range(len(texts)))]
        files.put(dict(zip(places, made, strict=True)), folder)
    return report


def _check_judged(test_images, wanted_precision):
    """Refuses images by which a lower precision cannot be judged."""
    if wanted_precision != "float32" and test_images.labels is None:
        raise ValueError(
            f"`precision={wanted_precision!r}` is judged by its accuracy on test images, and the "
            "data set of this model is not at hand. Prepare it with tensorflow-datasets, or give "
            f"`test_images` with labels. Received: {test_images}."
        )
    if wanted_precision == "int8" and test_images.calibration is None:
        raise ValueError(
            "`precision='int8'` takes its ranges from training images. Give `test_images` with "
            f"`calibration`. Received: {test_images} without."
        )


def _build(reference, run, checkpoint, test_images, folder, steps, options):
    """The finished ONNX graph of a model."""

    def of_fixed_size():
        return graph.simplify(graph.convert(folded, options.opset, batch_size=1))

    folded, lines = fold(reference, scales=options.precision != "float16")
    steps("fold", "; ".join(lines) or "nothing to multiply into kernels")
    proto = graph.convert(folded, options.opset, options.batch_size)
    steps("trace", f"without XLA, batch size {options.batch_size or 'free'}")
    steps("convert", f"{len(proto.graph.node)} nodes, tf2onnx {tf2onnx.__version__}")
    proto = graph.simplify(proto)
    graph.refuse_operators(proto, None if options.batch_size else of_fixed_size)
    steps("simplify", f"{len(proto.graph.node)} nodes, onnxslim {onnxslim.__version__}")
    if options.precision == "float16":
        proto = precision.to_float16(proto)
        steps("float16", "convolutions and products in half precision")
    elif options.precision == "int8":
        training_images = test_images.calibration.astype(reference.inputs[0].dtype)
        proto = precision.to_int8(proto, training_images, folder)
        steps("int8", f"convolutions, ranges from {len(training_images)} training images")
    graph.finish(
        proto, list(reference.output), options.batch_size, _metadata(run, checkpoint, options)
    )
    steps("check", graph.check(proto))
    return proto


def _metadata(run, checkpoint, options):
    entries = {
        graph.PRODUCER: kcaps.__version__,
        "recipe": run.get("recipe"),
        "data": run.get("data", {}).get("title"),
        "labels": run.get("labels") and json.dumps(run["labels"]),
        "input_range": run.get("input_range") and json.dumps(run["input_range"]),
        "precision": options.precision,
        "checkpoint_sha256": checkpoint and checkpoint.sha256,
    }
    return {key: str(value) for key, value in entries.items() if value}


def _about(proto, path, checkpoint, options):
    operators = collections.Counter(node.op_type for node in proto.graph.node)
    return {
        "format": "onnx",
        **dataclasses.asdict(options),
        "nodes": len(proto.graph.node),
        "operators": dict(sorted(operators.items())),
        "bytes": path.stat().st_size,
        "sha256": file_hash(path),
        "metadata": {entry.key: entry.value for entry in proto.metadata_props},
    }


def main():
    parser = program.export_parser(__doc__.splitlines()[0], "model.onnx")
    parser.add_argument(
        "--model-repository",
        type=pathlib.Path,
        help="instead of --output: write into this folder as an ONNX-serving model repository",
    )
    parser.add_argument("--opset", type=int, default=18, help="ONNX operator set, 13 to 18")
    parser.add_argument(
        "--batch-size", type=command.positive(int), help="the only batch size; default: any"
    )
    parser.add_argument("--precision", choices=precision.PRECISIONS, default="float32")
    parser.add_argument(
        "--max-accuracy-drop",
        type=float,
        help="points of test accuracy; default: 0.1 for float16, 0.5 for int8",
    )
    parser.add_argument("--provider", choices=list(runtime.PROVIDERS), default="cpu")
    parser.refuse(
        ["--max-accuracy-drop"],
        # What is no number of points has an error of its own.
        lambda args: args.precision == "float32" and 0 <= args.max_accuracy_drop <= 100,
        precision.EXACT,
    )
    args = parser.parse_args()
    if args.output and args.model_repository:
        parser.error("give --output or --model-repository, not both")

    def place(run):
        if args.model_repository:
            return serving.model_path(args.model_repository, run)
        return args.output or args.model / "model.onnx"

    def export(path, loaded, test_images, show):
        names = {field.name for field in dataclasses.fields(Options)}
        options = Options(**{name: value for name, value in vars(args).items() if name in names})
        more_files = None
        if args.model_repository:
            more_files = serving.files(path, loaded.run["labels"], args.provider)
        return _export(path, loaded.model, test_images, loaded, Steps(show), options, more_files)

    program.run_export(export, args, place)


if __name__ == "__main__":
    main()
