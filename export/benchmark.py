"""Latency and throughput of a checkpoint's ONNX file, beside its SavedModel and Keras.

python -m export.benchmark --model ckpt/ --provider cpu --batch-sizes 1,16,64,256
"""

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import tempfile
import time

import numpy as np

from export import command, images, pipeline
from export.checkpoint import load
from export.errors import ParityError
from export.onnx import export_onnx
from export.report import read_report
from export.saved_model import export_saved_model

WARM_UP = 3
HEADER = f"{'runtime':<44}{'batch':>6}{'median ms':>12}{'p95 ms':>12}{'images/s':>12}"


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of one runtime at one batch size, in seconds."""

    runtime: str
    batch: int
    seconds: list

    def __str__(self):
        median, p95 = np.percentile(self.seconds, (50, 95))
        return (
            f"{self.runtime:<44}{self.batch:>6}{1e3 * median:>12.2f}{1e3 * p95:>12.2f}"
            f"{self.batch / median:>12,.0f}"
        )


def _measure(runtimes, batch, repeats):
    """Times runtimes in turn, so that a slow spell of the machine falls on all alike."""
    prepared = {name: prepare(batch) for name, prepare in runtimes.items()}
    seconds = {name: [] for name in prepared}
    for step in range(WARM_UP + repeats):
        for name, run in prepared.items():
            start = time.perf_counter()
            run()
            if step >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return [Timing(name, len(batch), times) for name, times in seconds.items()]


def _bound(session, provider):
    """Returns a function that binds a batch to a session, and returns one that runs it.

    Images and outputs stay on the provider's device, as in a server that shares its memory.
    """
    import onnxruntime

    device = "cpu" if provider == "cpu" else "cuda"
    (image,) = session.get_inputs()

    def prepare(batch):
        binding = session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(batch), device, 0)
        binding.bind_ortvalue_input(image.name, value)
        for output in session.get_outputs():
            binding.bind_output(output.name, device, 0)

        def run():
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    return prepare


@contextlib.contextmanager
def _exports(loaded, file, provider):
    """Gives the paths of a checkpoint's ONNX file and SavedModel; a missing one is made."""
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = file or loaded.place("model.onnx")
        if file is None and not onnx_path.exists():
            print("exporting to ONNX …")
            onnx_path = pathlib.Path(folder) / "model.onnx"
            export_onnx(loaded.model, onnx_path, checkpoint=loaded, provider=provider)
        saved_model = loaded.place("saved_model")
        if not saved_model.exists():
            print("exporting to SavedModel …")
            saved_model = pathlib.Path(folder) / "saved_model"
            export_saved_model(loaded.model, saved_model, checkpoint=loaded)
        yield onnx_path, saved_model


def _benchmark(loaded, file, provider, batch_sizes, repeats):
    """Prints a line for each runtime and batch size of a checkpoint."""
    from export import runtime
    from export.inference import inference_model

    runtime.check_provider(provider)
    model = inference_model(loaded.model)
    with _exports(loaded, file, provider) as (onnx_path, saved_model):
        runtimes = _runtimes(loaded, model, onnx_path, saved_model, provider, batch_sizes)
        pixels = images.choose(None, loaded, model.inputs[0]).test.astype(model.inputs[0].dtype)
        print(HEADER)
        for size in batch_sizes:
            batch = np.take(pixels, range(size), axis=0, mode="wrap")
            for timing in _measure(runtimes, batch, repeats):
                print(timing, flush=True)


def _runtimes(loaded, model, onnx_path, saved_model, provider, batch_sizes):
    """Opens the files; returns functions that prepare a batch, by the name of the runtime."""
    import tensorflow as tf

    from export import runtime
    from export.half import half_dtypes

    _, fixed, metadata = runtime.read(onnx_path)
    runtime.check_unchanged(onnx_path)
    _check_source(onnx_path, metadata.get("checkpoint_sha256"), loaded)
    if saved_model == loaded.place("saved_model"):
        _check_source(saved_model, read_report(saved_model).get("checkpoint_sha256"), loaded)
    if fixed and set(batch_sizes) != {fixed}:
        raise ValueError(f"{onnx_path} takes batches of {fixed} alone. Give --batch-sizes {fixed}.")
    session = runtime.open_session(onnx_path, provider)
    expected, received = tuple(model.inputs[0].shape[1:]), session.get_inputs()[0].shape[1:]
    if list(expected) != received:
        raise ValueError(f"{onnx_path} takes images of {received}, the model of {expected}")
    served = tf.saved_model.load(str(saved_model)).signatures["serving_default"]

    def serve(image):
        return [value.numpy() for value in served(image=image).values()]

    used = session.get_providers()[0].removesuffix("ExecutionProvider")
    # Keras and the SavedModel compute in the precision of the user's layers, the file in its own.
    own = " and ".join(half_dtypes(model)) or "float32"
    return {
        f"ONNX Runtime, {used}, {metadata['precision']}": _bound(session, provider),
        f"TensorFlow, SavedModel, {own}": lambda batch: functools.partial(
            serve, tf.constant(batch)
        ),
        f"Keras, predict_on_batch, {own}": lambda batch: functools.partial(
            model.predict_on_batch, batch
        ),
    }


def _check_source(path, sha256, loaded):
    if sha256 != loaded.sha256:
        raise ValueError(
            f"{path} was not exported from the model in {loaded.file or loaded.folder} as it is "
            "now. Export it again."
        )


def batch_sizes(text: str) -> list[int]:
    """Reads an argument of positive integers with commas between them."""
    from export.runtime import MAX_BATCH_SIZE

    sizes = [command.positive(int)(part) for part in text.split(",")]
    if max(sizes) > MAX_BATCH_SIZE:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_BATCH_SIZE:,}, received {text}")
    return sizes


def main() -> None:
    command.set_up("tensorflow")
    from export import runtime

    parser = pipeline.file_parser(__doc__, runtime.PROVIDERS)
    parser.add_argument("--batch-sizes", type=batch_sizes, default="1,16,64,256")
    parser.add_argument("--repeats", type=command.positive(int), default=30)
    args = parser.parse_args()
    try:
        loaded = load(args.model, args.labels, args.input_range)
        _benchmark(loaded, args.onnx, args.provider, args.batch_sizes, args.repeats)
    except (ValueError, OSError, ParityError) as error:
        command.fail(error)
    except KeyboardInterrupt:
        command.fail("interrupted", code=130)
    except ImportError:  # which the process explains, as that of any library
        raise
    except Exception as error:  # a runtime's own, as when memory is short
        command.fail(f"a runtime failed: {command.first_line(error)}", code=1)


if __name__ == "__main__":
    main()
