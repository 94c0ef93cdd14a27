"""All pipelines of pictures, on images that are the same in every process, and their digests."""

import hashlib
import json

import numpy as np

from networks.small_capsnet import SHIFT
from pictures_of import robustness
from pictures_of.batches import Batches, stream
from pictures_of.distortions import distorted
from pictures_of.overlaps import overlapping, training_batches
from reproduction.tasks import MIRRORED_AND_SHIFTED, SHIFTED

COUNT, SIZE = 37, 16  # Passes end within batches.
NAMES = ("plain", "half_pixels", "distorted", "mirrored_and_shifted", "moved")
NAMES += ("overlapping", "targets", "placed")


def examples(channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of random bytes, 9 × 11, in which a black frame shows shifts; and labels."""
    rng = np.random.default_rng(7)
    images = rng.integers(256, size=(COUNT, 9, 11, channels)).astype("uint8")
    images[:, :, 0] = images[:, -1] = 0
    return images, np.arange(COUNT) % 5


def pipeline(name: str, seed: int = 3, channels: int = 1) -> Batches:
    """Returns the batches of a name in `NAMES`."""
    images, labels = examples(channels)
    changes = {"half_pixels": SHIFT, "mirrored_and_shifted": MIRRORED_AND_SHIFTED}
    changes |= {"moved": SHIFTED, "plain": None}
    if name in changes:
        return stream(images, labels, SIZE, seed, changes[name])
    makers = {"overlapping": overlapping, "targets": training_batches}
    makers |= {"distorted": distorted, "placed": robustness.placed}
    return makers[name](images, labels, seed, SIZE)


def arrays(batch) -> list[np.ndarray]:
    """Returns the arrays of a batch, in an order of their own."""
    if isinstance(batch, dict):
        return [array for name in sorted(batch) for array in arrays(batch[name])]
    return [array for part in batch for array in arrays(part)] if type(batch) is tuple else [batch]


def digest(found: list[np.ndarray]) -> str:
    """Returns the SHA-256 of arrays, with their shapes and types."""
    result = hashlib.sha256()
    for array in map(np.asarray, found):
        result.update(f"{array.dtype} {array.shape};".encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()


def digests() -> dict[str, str]:
    """Returns the digest of four batches of each pipeline, and of pictures that are made once."""
    found = {}
    for name in NAMES:
        batches = pipeline(name)
        found[name] = digest([array for number in range(4) for array in arrays(batches(number))])
    images, _ = examples()
    found["canvas"] = digest([robustness.canvas(images, 5)])
    found["affine"] = digest([robustness.affine(images, 5)])
    found["noisy"] = digest([robustness.noisy(images, 0.3, 5)])
    return found


if __name__ == "__main__":
    print(json.dumps(digests()))
