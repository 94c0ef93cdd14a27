"""The check that an exported file computes what the Keras model computes."""

import dataclasses

import numpy as np

BATCH_SIZES = (1, 7, 64)
MAX_IMAGES = 1000


class ParityError(RuntimeError):
    """An exported file that does not load or does not compute the same."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the report: one output at one batch size."""

    output: str
    batch: str
    shape: tuple
    difference: float
    passed: bool

    def __str__(self):
        mark = "✓" if self.passed else "✗"
        shape = "×".join(map(str, self.shape))
        return f"  {mark} {self.output:<16}{self.batch:<24}{shape:<14}{self.difference:.1e}"


def comparison_images(run, image):
    """Images to compare on: test images of the data set that `run.json` names, if at hand.

    Nothing is downloaded. Without real images, uniform random pixels from 0 to 255 stand in.

    Args:
        run: Content of `run.json`, or an empty dict.
        image: Input of the model, a `keras.KerasTensor`.

    Returns:
        Images `(n, height, width, channels)` in the dtype of `image`, and a description of them.

    Raises:
        ValueError: if the entry of the data set is damaged.
    """
    source = run.get("data", {})
    name = source.get("name")
    images = None
    try:
        if source.get("loader") == "scikit-learn":
            images = _digits(source)
        elif source.get("loader") == "tensorflow-datasets":
            images = _prepared(name, source.get("data_dir"))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"`run` does not say where its test images are: {error!r}.") from error
    shape = tuple(image.shape[1:])
    if images is not None and images.shape[1:] == shape:
        images = images[:MAX_IMAGES].astype(image.dtype)
        return images, f"{len(images):,} test images of {name}"
    images = np.random.default_rng(0).integers(256, size=(max(BATCH_SIZES), *shape))
    reason = f"; the model was trained on {source['title']}" if "title" in source else ""
    return images.astype(image.dtype), f"{len(images)} random images{reason}"


def _digits(source):
    from sklearn.datasets import load_digits

    images = np.round(load_digits().images * source["scale"]).astype("uint8")
    indices = np.array(source["test_indices"])
    if indices.ndim != 1 or not len(indices):
        raise ValueError("test_indices must be a list of integers")
    return images[indices][..., np.newaxis]


def _prepared(name, data_dir):
    """Test images from a prepared folder: the run's own or tensorflow-datasets' default."""
    for folder in (data_dir, None):
        try:
            import tensorflow_datasets as tfds

            builder = tfds.builder(name, data_dir=folder)
            if builder.is_prepared():
                part = builder.as_dataset(split=f"test[:{MAX_IMAGES}]", batch_size=-1)
                return part["image"].numpy()
        except Exception:  # not installed, not there, or damaged in any way
            continue
    return None


def verify(reference, candidate, images, tolerance):
    """Raises a `ParityError` if a row of `compare` fails; returns the rows otherwise."""
    rows = compare(reference, candidate, images, tolerance)
    for row in rows:
        if not row.passed:
            raise ParityError(
                f"{row.output} differs from Keras by {row.difference:.1e} at {row.batch}, "
                f"tolerance {tolerance:.0e}"
            )
    return rows


def compare(reference, candidate, images, tolerance):
    """Compares names, shapes and values of two models' outputs at several batch sizes.

    The first images are compared at batch sizes 1 and 7; all of them in batches of 64.

    Args:
        reference: Function from images to a dict of arrays: the Keras model.
        candidate: Function from images to a dict of arrays: the exported file.
        images: Images `(n, height, width, channels)`.
        tolerance: Largest absolute difference that passes; for values beyond 1, relative.

    Returns:
        List of `Row`. With an output `class_lengths`, the last one counts the images whose class
        differs.

    Raises:
        ParityError: if the names or shapes of the outputs differ.
    """
    rows = []
    for batch in BATCH_SIZES[:-1]:
        expected, received = _outputs(reference, candidate, [images[:batch]])
        rows += _rows(expected, received, f"batch {batch}", tolerance)
    size = BATCH_SIZES[-1]
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    expected, received = _outputs(reference, candidate, parts)
    rows += _rows(expected, received, f"batch {size}, {len(images)} images", tolerance)
    if "class_lengths" in expected:
        classes = [x["class_lengths"].argmax(-1) for x in (expected, received)]
        changed = int(np.sum(classes[0] != classes[1]))
        rows.append(Row("class", f"{len(images)} images", classes[0].shape, changed, not changed))
    return rows


def _outputs(reference, candidate, parts):
    """Outputs of both models over batches of images, as two dicts of arrays."""
    references = [reference(part) for part in parts]
    try:
        candidates = [candidate(part) for part in parts]
    except Exception as error:  # runtimes have no common base for their errors
        raise ParityError(f"the file loads but does not run: {error}") from error
    pairs = list(zip(references, candidates, strict=True))
    for part, (expected, received) in zip(parts, pairs, strict=True):
        if set(expected) != set(received):
            raise ParityError(
                f"outputs differ: Keras has {sorted(expected)}, the file has {sorted(received)}"
            )
        for name in expected:
            shapes = expected[name].shape, received[name].shape
            if shapes[0] != shapes[1]:
                raise ParityError(
                    f"shape of {name} differs at batch {len(part)}: Keras gives {shapes[0]}, the "
                    f"file {shapes[1]}"
                )
    return [
        {name: np.concatenate([x[name] for x in side]) for name in side[0]}
        for side in zip(*pairs, strict=True)
    ]


def _rows(expected, received, batch, tolerance):
    rows = []
    for name, value in expected.items():
        value = value.astype("float64")
        error = np.abs(value - received[name]) / np.maximum(1.0, np.abs(value))
        difference = float(error.max())  # NaN fails the comparison below
        rows.append(Row(name, batch, value.shape, difference, difference <= tolerance))
    return rows
