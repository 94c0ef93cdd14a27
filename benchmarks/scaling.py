"""Steps of one worker and of two on this machine, a core each, over the loopback interface."""

import argparse
import datetime
import json
import os
import socket
import subprocess
import sys
import time

from export.command import Parser, fail, positive, required

WARM_UP, WORKERS = 2, 2


def measure(core, steps):
    """Times of this worker, a dict of lists by what was measured, printed as JSON."""
    os.sched_setaffinity(0, {core})
    os.environ["KERAS_BACKEND"] = "tensorflow"  # on whose strategies workers share a step
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(4)  # a reduction that waits keeps one
    several = "TF_CONFIG" in os.environ
    strategy = tf.distribute.get_strategy()
    if several:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replicas = strategy.num_replicas_in_sync

    import keras
    import numpy as np

    from kcaps.models import capsnet
    from kcaps.regression import CapsuleRegression

    def watch(times, begin, end):
        marks = []
        return keras.callbacks.LambdaCallback(
            **{
                begin: lambda *_, **__: marks.append((time.perf_counter(), time.process_time())),
                end: lambda *_, **__: times.append(
                    (time.perf_counter() - marks[-1][0], time.process_time() - marks[-1][1])
                ),
            }
        )

    rng, found = np.random.default_rng(0), {}
    for name, size in (("CapsNet, 32 in all", 32), ("CapsNet, 32 a worker", 32 * replicas)):
        images = rng.uniform(0, 255, size=(size, 28, 28, 1)).astype("float32")
        with strategy.scope():
            model = capsnet((28, 28, 1), 10, routing="l1")
            model.compile("adam")
        batches = tf.data.Dataset.from_tensors((images, np.arange(size) % 10)).repeat()
        times = found[name] = []
        watcher = watch(times, "on_train_batch_begin", "on_train_batch_end")
        model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[watcher])
    features = rng.normal(size=(60_000, 196)).astype("float32")
    with strategy.scope():
        model = CapsuleRegression(10, 32)
        model.compile()
        times = found["EM, 60,000 examples, 10 capsules of 32 on 196 features"] = []
        watcher = watch(times, "on_epoch_begin", "on_epoch_end")
        model.fit(features, np.arange(60_000) % 10, epochs=steps, verbose=0, callbacks=[watcher])
    print(json.dumps(found))


def run(workers, steps):
    sockets = [socket.socket() for _ in range(workers)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(workers):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if workers > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, __file__, "--steps", str(steps), "--worker", str(index)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **options))
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return found[0]


def median(times, column):
    return sorted(pair[column] for pair in times[WARM_UP:])[(len(times) - WARM_UP) // 2]


def main():
    parser = Parser(__doc__)
    parser.add_argument("--steps", type=positive(int), default=6, help="that are measured")
    parser.add_argument("--worker", type=int, choices=range(WORKERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < WORKERS:
        fail(f"a core is needed for each of {WORKERS} workers: this process may use {len(cores)}")
    if args.worker is not None:
        return measure(cores[args.worker], args.steps + WARM_UP)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # as the workers' is
    # Not earlier: they start TensorFlow, which a worker does on one core.
    with required():
        from bench import commit
        from device import versions

    print(f"# Workers\n\n{versions()}, {datetime.date.today()}{commit()}\n", flush=True)
    one, two = run(1, args.steps), run(WORKERS, args.steps)
    print("| | one worker, s (of its core) | two workers, s (of one core) |\n|---|---|---|")
    for name, times in one.items():
        cells = [f"{median(t, 0):.2f} ({median(t, 1):.2f})" for t in (times, two[name])]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
