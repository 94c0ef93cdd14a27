"""Training on several devices, or by several workers on as many machines: `--distribute`."""

import atexit
import dataclasses
import functools
import itertools
import json
import operator
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable

import keras
from keras import tree

from export.command import fail, first_line, start_tensorflow
from harness.feeding import Feed
from pictures_of.batches import Batches

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multi-worker")

# How often a worker starts anew because another one was lost.
_RESTARTS = 20
_COUNT = "KCAPS_RESTARTS"
# What a worker needs of the chief's folder to go on.
_STATE = ("run.json", "history.csv", "sweep.csv", "model.keras", "backup")


def writes(settings) -> bool:
    """Returns whether this process is the one that writes the checkpoint folder: the chief."""
    return getattr(settings, "distribute", "none") != "multi-worker" or _is_chief()


def _is_chief():
    cluster, kind, index = _task()
    return kind == "chief" or ("chief" not in cluster and index == 0)


def start(settings):
    """Makes the strategy that settings ask for that of the whole program.

    All workers run the same program on the same batches, of which each takes its part. Only the
    chief writes the checkpoint folder and speaks; the output of others is a copy, in a temporary
    folder. A worker that loses another one starts anew and waits for it.

    Args:
        settings: `harness.settings.RunSettings`.

    Returns:
        The settings of this process, whose output may be another one.
    """
    distribute = getattr(settings, "distribute", "none")
    if keras.backend.backend() != "tensorflow":
        if distribute != "none":
            fail(
                f"--distribute {distribute} needs KERAS_BACKEND 'tensorflow', whose strategies it "
                f"uses, or unset. Received: {keras.backend.backend()!r}"
            )
        return settings
    if distribute == "none":
        start_tensorflow()
        return settings
    strategy = _mirrored() if distribute == "mirrored" else _multi_worker()
    size, replicas = getattr(settings, "batch_size", 0), strategy.num_replicas_in_sync
    if size % replicas:
        fail(f"--batch-size must be a multiple of the {replicas} replicas. Received: {size}.")
    tf.distribute.experimental_set_strategy(strategy)
    if writes(settings):
        return settings
    sys.stdout = open(os.devnull, "w")
    output = pathlib.Path(tempfile.mkdtemp(prefix="worker-"))
    atexit.register(shutil.rmtree, output, ignore_errors=True)
    if settings.resume:
        _copy(settings.output, output)
    return dataclasses.replace(settings, output=output)


def share(
    batches: Batches, first: int, check: Callable | None = None
) -> "tf.distribute.DistributedDataset":
    """Returns batches from a first one on, without end, of which each replica takes an equal part.

    Args:
        batches: The batches.
        first: Number of the first one.
        check: As for `Feed`.
    """
    make = functools.partial(own_parts, batches, first, check)
    return tf.distribute.get_strategy().distribute_datasets_from_function(make)


def own_parts(
    batches: Batches, first: int, check: Callable | None, context: "tf.distribute.InputContext"
) -> "tf.data.Dataset":
    """Returns the parts of batches that a worker's replicas take, of one after the other.

    The worker makes no others. Arguments are those of `share`, and what TensorFlow says of the
    worker.
    """
    share = batches.size // context.num_replicas_in_sync
    own = context.num_replicas_in_sync // context.num_input_pipelines * share
    start = context.input_pipeline_id * own
    feed = Feed(batches, check=check, part=slice(start, start + own))
    signature = tree.map_structure(
        lambda rows: tf.TensorSpec((share, *rows.shape[1:]), rows.dtype), feed[first]
    )

    def generate():
        for number in itertools.count(first):
            batch = feed[number]
            for begin in range(0, own, share):
                rows = operator.itemgetter(slice(begin, begin + share))
                yield tree.map_structure(rows, batch)

    return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2)


def has_strategy():
    """Returns whether several devices or workers share a step: TensorFlow's strategies alone."""
    return keras.backend.backend() == "tensorflow" and tf.distribute.has_strategy()


def check_same(epochs: int) -> None:
    """Ends the program where workers found checkpoints of different numbers of epochs."""
    if not has_strategy():
        return
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return

    def sums():
        numbers = tf.constant([epochs, epochs**2], "float64")
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, numbers)

    total, squares = strategy.experimental_local_results(strategy.run(sums))[0].numpy()
    if total**2 != squares * strategy.num_replicas_in_sync:
        fail("workers see different checkpoints: give an --output that all machines share")


def finish(output: pathlib.Path, model: keras.Model) -> keras.Model:
    """Returns the trained model without a strategy; other workers than the chief end here.

    Args:
        output: Checkpoint folder, whose `model.keras` holds the model too.
        model: The trained model.
    """
    if not has_strategy():
        return model
    strategy = tf.distribute.get_strategy()
    tf.distribute.experimental_set_strategy(None)
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and not _is_chief():
        raise SystemExit
    return keras.saving.load_model(output / "model.keras")


def _mirrored():
    devices, cpu = None, tf.config.list_physical_devices("CPU")[0]
    if not tf.config.list_physical_devices("GPU"):
        devices = ["CPU:0", "CPU:1"]
        if len(tf.config.get_logical_device_configuration(cpu) or []) < 2:
            halves = [tf.config.LogicalDeviceConfiguration()] * 2
            tf.config.set_logical_device_configuration(cpu, halves)
    return start_tensorflow(lambda: tf.distribute.MirroredStrategy(devices))


def _multi_worker():
    # On one core TensorFlow has one such thread: a reduction that waits for others keeps it.
    tf.config.threading.set_inter_op_parallelism_threads(max(4, os.cpu_count()))
    try:
        strategy = start_tensorflow(tf.distribute.MultiWorkerMirroredStrategy)
    except tf.errors.UnknownError as error:  # such as a port that is in use
        fail(f"the cluster of TF_CONFIG cannot be joined: {first_line(error)}")
    except tf.errors.OpError as error:
        _start_anew(f"the cluster of TF_CONFIG cannot be joined: {first_line(error)}")
    sys.excepthook = _on_error
    return strategy


def _task():
    """The cluster, the kind of this task and its number, from a `TF_CONFIG` that is sound."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        fail(
            "--distribute multi-worker needs TF_CONFIG in the environment, with the addresses of "
            'all workers and the number of this one: {"cluster": {"worker": ["host:port", …]}, '
            '"task": {"type": "worker", "index": 0}}; see docs/scaling.md'
        )
    try:
        config = json.loads(text)
        cluster, task = dict(config["cluster"]), dict(config["task"])
        kind, index = task["type"], int(task["index"])
        if set(cluster) - {"chief", "worker"}:
            raise ValueError(f"its jobs must be chief and worker, received {sorted(cluster)}")
        for name, addresses in cluster.items():
            if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
                raise ValueError(f"{name} must be a list of host:port, received {addresses!r}")
        if len(cluster.get("chief", [])) > 1:
            raise ValueError("there must be one chief at most")
        everyone = [address for addresses in cluster.values() for address in addresses]
        if len(set(everyone)) < len(everyone):
            raise ValueError("an address is there twice")
        if kind not in cluster or not 0 <= index < len(cluster[kind]):
            raise ValueError(f"there is no {kind} {index} in its cluster")
    except (ValueError, KeyError, TypeError) as error:
        fail(f"TF_CONFIG cannot be used: {error!r}")
    return cluster, kind, index


def _is_address(text):
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 2**16


def _copy(source, target):
    for name in _STATE:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)


def _on_error(kind, error, trace):
    """`sys.excepthook` of a worker."""
    if issubclass(kind, Exception) and "Collective ops is aborted" in str(error):
        _start_anew("another worker was lost")
    sys.__excepthook__(kind, error, trace)


def _start_anew(reason):
    """Replaces this process by its own command, which goes on with the run and waits for all."""
    count = int(os.environ.get(_COUNT, 0)) + 1
    if count > _RESTARTS:
        fail(f"{reason}; this worker has started anew {_RESTARTS} times", code=1)
    print(f"{reason}: starting anew from the checkpoint", file=sys.stderr, flush=True)
    time.sleep(1)
    command = [word for word in sys.orig_argv if word != "--overwrite"]
    os.environ[_COUNT] = str(count)
    os.execv(sys.executable, [*command, "--resume"])
