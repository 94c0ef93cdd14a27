"""The provenance of a number: command, commit, machine, date."""

import datetime
import os
import pathlib
import shlex
import sys

import keras

from export.commit import commit

COLUMNS = ("command", "commit", "machine", "date")


def here() -> dict[str, str]:
    """Returns the provenance of what this program measures from now on, by `COLUMNS`."""
    path, backend = pathlib.Path(sys.argv[0]), keras.backend.backend()
    command = shlex.join(["python", f"recipes/{path.name}", *sys.argv[1:]])
    return {
        "command": command if backend == "tensorflow" else f"KERAS_BACKEND={backend} {command}",
        "commit": commit(),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


def machine() -> str:
    """Returns what computes, without anything that identifies it."""
    return gpu_name() or f"{os.cpu_count()} CPU cores"


def gpu_name() -> str | None:
    """Returns the name of the first GPU, or None where Keras' backend computes on the CPU."""
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None

    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else None
