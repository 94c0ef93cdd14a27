"""ONNX files in ONNX Runtime, as any process opens them that has NumPy and that runtime alone."""

import numpy as np
import onnxruntime

# The runtime warns of its own fallbacks on stderr; here they are errors.
SILENT = 4


def open_file(
    source: str | bytes, providers: list[str], can_fall_back: bool = True
) -> onnxruntime.InferenceSession:
    """Opens an ONNX file, by its path or its bytes, without a word on stderr."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    return onnxruntime.InferenceSession(
        source, options, providers=providers, enable_fallback=int(can_fall_back)
    )


def runner(session: onnxruntime.InferenceSession, batch_size: int | None = None):
    """Returns a function from images to a dict of named outputs.

    Batches are filled up to `batch_size` where the file takes no other.
    """
    (image,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def run(images):
        images = np.asarray(images)
        count = len(images)
        if batch_size is not None:
            images = np.take(images, range(batch_size), axis=0, mode="wrap")
        outputs = session.run(names, {image.name: images})
        return {name: value[:count] for name, value in zip(names, outputs, strict=True)}

    return run
