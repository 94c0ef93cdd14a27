"""Speed of a trained model on a device: in Keras, or of its ONNX files in ONNX Runtime.

The batch is on the device before, and the outputs stay there, as in a server that shares its
memory. The model computes wholly in each precision. Keras' backend is that of KERAS_BACKEND.
"""

import argparse
import functools
import os
import pathlib

import program

from export.command import Parser, fail, positive

BATCHES = (1, 8, 64, 256, 1024)
PRECISIONS = ("float32", "float16", "bfloat16")


def read_arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model", type=pathlib.Path, required=True, metavar="FOLDER", help="checkpoint folder"
    )
    parser.add_argument(
        "--onnx", action="store_true", help="time the ONNX files of the folder, not Keras"
    )
    parser.add_argument("--repeats", type=positive(int), default=21, help="runs of each row")
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="all numbers, as CSV")
    program.add_names(parser, "--precisions", PRECISIONS, "NAME,...", "of Keras' models")
    program.add_quick(parser)
    return parser.parse_args()


def with_precision(model, precision: str):
    """Returns a model of the same weights that computes wholly in a precision."""
    import keras

    def changed(config):
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return config | {"config": {"name": precision}}
            return {key: changed(value) for key, value in config.items()}
        return [changed(value) for value in config] if isinstance(config, list) else config

    config = changed(keras.saving.serialize_keras_object(model))
    other = keras.saving.deserialize_keras_object(config)
    for variable, value in zip(other.variables, model.variables, strict=True):
        variable.assign(keras.ops.cast(value, variable.dtype))
    return other


def keras_rows(model, precisions, batches):
    """Generates a precision and its rows: functions without arguments, by batch size."""
    import numpy as np
    from device import inference_function
    from keras import ops

    shape = model.inputs[0].shape[1:]
    for precision in precisions:
        infer = inference_function(with_precision(model, precision))
        rows = {}
        for size in batches:
            pixels = np.random.default_rng(0).integers(256, size=(size, *shape))
            pixels = ops.convert_to_tensor(pixels, dtype="float32")
            rows[size] = functools.partial(infer, pixels)
        yield precision, rows


def onnx_rows(paths, provider, batches):
    """Generates a file's precision and its rows, as `keras_rows` does."""
    import numpy as np
    import onnxruntime

    from export import runtime

    for path in paths:
        session = runtime.open_session(path, provider)
        (image,) = session.get_inputs()
        device, rows = "cpu" if provider == "cpu" else "cuda", {}
        for size in batches:
            pixels = np.random.default_rng(0).integers(256, size=(size, *image.shape[1:]))
            binding = session.io_binding()
            value = onnxruntime.OrtValue.ortvalue_from_numpy(pixels.astype("float32"), device, 0)
            binding.bind_ortvalue_input(image.name, value)
            for output in session.get_outputs():
                binding.bind_output(output.name, device, 0)
            rows[size] = functools.partial(_run, session, binding)
        yield f"{path.name}, {runtime.read(path)[2]['precision']}", rows


def _run(session, binding):
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def measure(groups, name, args, records):
    """Times the rows of each precision, and prints a table of it."""
    from timing import interleaved, milliseconds, quartiles, table

    for precision, rows in groups:
        seconds = interleaved(rows, args.repeats, args.calls, args.threads)
        lines = []
        for size, values in seconds.items():
            median = quartiles(values)[1]
            records.add("inference", name, quartiles(values), batch_size=size, precision=precision)
            lines.append((str(size), *milliseconds(values), f"{size / median:,.0f}"))
        table(f"{name}, {precision}", ("batch", "ms", "quartiles", "images/s"), lines)
        records.write()


def measure_onnx(args, batches, records):
    """Times the ONNX files on CUDA; where ONNX Runtime cannot, a row says why not."""
    import onnxruntime

    from export import runtime

    provider = "cpu" if args.quick else "cuda"
    name = f"ONNX Runtime {onnxruntime.__version__}, {provider}"
    try:
        runtime.check_provider(provider)
    except ValueError as error:
        available = ", ".join(onnxruntime.get_available_providers())
        records.add("inference", name, note=f"{error} Available: {available}.")
        records.write()
        print(f"{name}: {error} Available: {available}.")
        return
    paths = sorted(args.model.glob("*.onnx"))
    if not paths:
        fail(f"{args.model} holds no ONNX file: export one with `python -m export.onnx`")
    args.threads = 1
    measure(onnx_rows(paths, provider, batches), name, args, records)


def main():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    program.set_up()
    args = read_arguments()
    import keras
    from device import BACKEND, compiling_threads, gpu_name, use_tensor_cores, versions
    from records import Records

    from export.checkpoint import CheckpointError, load

    batches = BATCHES[:2] if args.quick else BATCHES
    args.calls, args.threads = 10 if gpu_name() else 1, compiling_threads()
    records = Records(args.csv, {"versions": versions(), "commit": program.commit()})
    program.print_title("Inference on a device")
    if args.onnx:
        return measure_onnx(args, batches, records)
    try:
        model = load(args.model).model
    except CheckpointError as error:
        fail(error)
    use_tensor_cores()
    model = keras.Model(model.input, model.output)  # without what is for training alone
    measure(keras_rows(model, args.precisions, batches), BACKEND, args, records)


if __name__ == "__main__":
    main()
