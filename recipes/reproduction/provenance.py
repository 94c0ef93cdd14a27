"""Where a number comes from: command, commit, machine, date."""

import datetime
import os
import pathlib
import shlex
import subprocess
import sys

import keras

COLUMNS = ("command", "commit", "machine", "date")


def here():
    """The provenance of what this program measures now, by `COLUMNS`."""
    path = pathlib.Path(sys.argv[0])
    return {
        "command": shlex.join(["python", f"recipes/{path.name}", *sys.argv[1:]]),
        "commit": _commit(path.parent),
        "machine": gpu_name() or f"{os.cpu_count()} CPU cores",
        "date": datetime.date.today().isoformat(),
    }


def _commit(folder):
    """Short name of the commit, with a plus where files differ from it; empty without git."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def gpu_name():
    """Name of the first GPU, or None where Keras' backend computes on the CPU."""
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind

    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else None
