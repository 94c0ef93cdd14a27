"""The ONNX file as a target of the exporter: its settings, its graph, its check and its report."""

import collections
import dataclasses
import json
import math
import pathlib

import onnx
import onnxruntime
import onnxslim
import tf2onnx

import kcaps
from export import graph, precision, runtime, serving
from export.files import file_hash
from export.pipeline import Target

OPSETS = range(13, 19)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Onnx(Target):
    """An ONNX file; `export.onnx.export_onnx` explains the settings.

    Args:
        model_repository: Folder of a model repository for servers, in which a checkpoint's file
            gets its place and a config file. Defaults to None: the file stands alone.
    """

    file_name = "model.onnx"

    opset: int = 18
    batch_size: int | None = None
    precision: str = "float32"
    max_accuracy_drop: float | None = None
    provider: str = "cpu"
    model_repository: pathlib.Path | None = None

    def default_path(self, checkpoint):
        if self.model_repository is None:
            return super().default_path(checkpoint)
        name = checkpoint.run["recipe"] if checkpoint.file is None else checkpoint.file.stem
        return serving.model_path(self.model_repository, name)

    def companions(self, path, about):
        if self.model_repository is None:
            return {}
        return serving.files(path, about.labels, self.provider)

    def refuse(self, path):
        if type(self.opset) is not int or self.opset not in OPSETS:
            raise ValueError(f"`opset` must be from 13 to 18. Received: opset={self.opset!r}.")
        if self.precision not in precision.PRECISIONS:
            raise ValueError(
                f"`precision` must be one of {list(precision.PRECISIONS)}. "
                f"Received: precision={self.precision!r}."
            )
        size, largest = self.batch_size, runtime.MAX_BATCH_SIZE
        if size is not None and (type(size) is not int or not 0 < size <= largest):
            raise ValueError(
                f"`batch_size` must be an integer from 1 to {largest:,}. Received: {size!r}."
            )
        if type(self.tolerance) not in (int, float) or not 0 < self.tolerance < math.inf:
            raise ValueError(
                f"`tolerance` must be a positive number. Received: {self.tolerance!r}."
            )
        precision.check_drop(self.max_accuracy_drop)
        if path.is_dir():
            raise ValueError(f"{path} is a folder. Give the path of a file.")
        runtime.check_provider(self.provider)

    def refuse_images(self, test_images):
        if self.precision != "float32" and test_images.labels is None:
            raise ValueError(
                f"`precision={self.precision!r}` is judged by its accuracy on test images, and the "
                "data set of this model is not at hand. Prepare it with tensorflow-datasets, or "
                f"give `test_images` with labels. Received: {test_images}."
            )
        if self.precision == "int8" and test_images.calibration is None:
            raise ValueError(
                "`precision='int8'` takes its ranges from training images. Give `test_images` with "
                "`calibration`, or a path (--images) of a folder with `train` and `test`, or of an "
                f".npz file with `x_train`. Received: {test_images} without."
            )

    def folds_scales(self):
        return self.precision != "float16"  # kernels of 1/255 of their size would lose digits

    def write(self, job):
        def of_fixed_size():
            return graph.simplify(graph.convert(job.folded, self.opset, batch_size=1))

        proto = graph.convert(job.folded, self.opset, self.batch_size)
        job.done("trace", f"without XLA, batch size {self.batch_size or 'free'}")
        job.done("convert", f"{len(proto.graph.node)} nodes, tf2onnx {tf2onnx.__version__}")
        proto = graph.simplify(proto)
        graph.refuse_operators(proto, None if self.batch_size else of_fixed_size)
        job.done("simplify", f"{len(proto.graph.node)} nodes, onnxslim {onnxslim.__version__}")
        if self.precision == "float16":
            proto = precision.to_float16(proto)
            job.done("float16", "convolutions and products in half precision")
        elif self.precision == "int8":
            pixels = job.test_images.calibration.astype(job.reference.model.inputs[0].dtype)
            proto = precision.to_int8(proto, pixels, job.path.parent)
            job.done("int8", f"convolutions, ranges from {len(pixels)} training images")
        metadata = self._metadata(job)
        graph.finish(proto, list(job.reference.model.output), self.batch_size, metadata)
        job.done("check", graph.check(proto))
        onnx.save(proto, job.path)

    def _metadata(self, job):
        run = job.checkpoint.run if job.checkpoint else {}
        entries = {
            graph.PRODUCER: kcaps.__version__,
            "recipe": run.get("recipe"),
            "data": run.get("data", {}).get("title"),
            **job.about.metadata(),
            "input_shape": json.dumps(list(job.reference.model.inputs[0].shape[1:])),
            "precision": self.precision,
            "checkpoint_sha256": job.checkpoint and job.checkpoint.sha256,
        }
        return {key: str(value) for key, value in entries.items() if value}

    def compare(self, job):
        session = runtime.open_session(job.path, self.provider)
        job.done("open", f"ONNX Runtime {onnxruntime.__version__}, {session.get_providers()[0]}")
        return runtime.compare_session(
            job.reference,
            session,
            job.test_images,
            self.precision,
            tolerance=self.tolerance,
            batch_size=self.batch_size,
            max_accuracy_drop=self.max_accuracy_drop,
        )

    def describe(self, job):
        proto = onnx.load(job.path)
        operators = collections.Counter(node.op_type for node in proto.graph.node)
        names = ("opset", "batch_size", "precision", "max_accuracy_drop", "provider")
        names += ("with_decoder", "tolerance", "overwrite")
        return {
            "format": "onnx",
            **{name: getattr(self, name) for name in names},
            "nodes": len(proto.graph.node),
            "operators": dict(sorted(operators.items())),
            "bytes": job.path.stat().st_size,
            "sha256": file_hash(job.path),
            "metadata": {entry.key: entry.value for entry in proto.metadata_props},
        }
