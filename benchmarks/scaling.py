"""Steps of one worker and of two on this machine, a core each, over the loopback interface."""

import argparse
import json
import os
import socket
import subprocess
import sys

import numpy as np
import program

from export.command import Parser, fail, positive

WARM_UP, WORKERS = 2, 2


def measure(core, steps):
    """Prints times of this worker as JSON, a dict of lists by the kind of training."""
    os.sched_setaffinity(0, {core})
    program.set_up("tensorflow", start=False)  # on whose strategies workers share a step
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(4)  # a reduction that waits keeps one
    several = "TF_CONFIG" in os.environ
    strategy = tf.distribute.get_strategy()
    if several:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = {}
    for size, text in ((32, "in all"), (32 * strategy.num_replicas_in_sync, "a worker")):
        found[f"CapsNet, 32 {text}"] = steps_of_capsnet(strategy, size, steps)
    name = "EM, 60,000 examples, 10 capsules of 32 on 196 features"
    found[name] = iterations_of_em(strategy, steps)
    print(json.dumps(found))


def steps_of_capsnet(strategy, size, steps):
    """Returns the times of training steps on batches of that size, in all."""
    import tensorflow as tf

    from kcaps.models import capsnet

    images = np.random.default_rng(0).uniform(0, 255, size=(size, 28, 28, 1)).astype("float32")
    with strategy.scope():
        model = capsnet((28, 28, 1), 10, routing="l1")
        model.compile("adam")
    batches = tf.data.Dataset.from_tensors((images, np.arange(size) % 10)).repeat()
    times, watcher = watch("on_train_batch_begin", "on_train_batch_end")
    model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[watcher])
    return times


def iterations_of_em(strategy, steps):
    """Returns the times of iterations of capsule regression."""
    from kcaps.regression import CapsuleRegression

    features = np.random.default_rng(0).normal(size=(60_000, 196)).astype("float32")
    with strategy.scope():
        model = CapsuleRegression(10, 32)
        model.compile()
        times, watcher = watch("on_epoch_begin", "on_epoch_end")
        model.fit(features, np.arange(60_000) % 10, epochs=steps, verbose=0, callbacks=[watcher])
    return times


def watch(begin, end):
    """Returns a list, and the callback that adds the seconds between two events to it."""
    import keras
    from timing import clocks

    marks, times = [], []
    events = {
        begin: lambda *_, **__: marks.append(clocks()),
        end: lambda *_, **__: times.append((clocks() - marks[-1]).tolist()),
    }
    return times, keras.callbacks.LambdaCallback(**events)


def run(workers, steps):
    """Returns the times that the first of some workers measures."""
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
    """Returns the median of one of the clocks, after the warm-up."""
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
    program.set_up("tensorflow")  # not earlier: a worker starts TensorFlow on one core
    program.print_title("Workers")
    print(flush=True)
    one, two = run(1, args.steps), run(WORKERS, args.steps)
    print("| | one worker, s (of its core) | two workers, s (of one core) |\n|---|---|---|")
    for name, times in one.items():
        cells = [f"{median(t, 0):.2f} ({median(t, 1):.2f})" for t in (times, two[name])]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
