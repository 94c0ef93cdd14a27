"""The jobs of the campaign, in order of value."""

import dataclasses
import sys

BENCH, REPRODUCE, BASELINES, INFERENCE = (
    "benchmarks/bench.py",
    "recipes/reproduce.py",
    "recipes/baselines.py",
    "benchmarks/device_inference.py",
)
METHODS = ("dynamic", "l2", "l1", "l2_fc", "l1_fc")
ON_CIFAR10 = ("dynamic_fc", "l2_fc", "l1_fc")
# Of l1 and l2, which compute the same, l2 stands for both.
ROUTINGS = "dynamic,l2,uniform,self_attention,inverted_attention,em"


@dataclasses.dataclass(frozen=True)
class Job:
    """A program that runs in a process of its own.

    Args:
        name: Name of its row and of its logs.
        words: Words of its command line after `python`.
        folder: Name of the folder that it writes to. Jobs with the same folder do not run at once.
        backend: Keras' backend.
        seconds: Time after which it is cut.
        least: Time that must be left of the campaign for it to begin.
        alone: Whether it measures time, and so has the device for itself.
        needs: Files and folders without which it is left out.
    """

    name: str
    words: tuple[str, ...]
    folder: str
    backend: str = "jax"
    seconds: float = 240.0
    least: float = 20.0
    alone: bool = False
    needs: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The whole command line."""
        return [sys.executable, *self.words]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the command line of the campaign says of its jobs.

    Args:
        output: Folder of results.
        data_dir: Folder of `mnist.npz` and the other images.
        checkpoint: Checkpoint folder whose model and exported files the inference is timed of, or
            None for the one that a job of Table II has trained.
        precision: Precision of training.
        epochs: Passes over the training images, or None for those of the budget `gpu_minutes`.
        seeds: Seeds of Table II in all.
        quick: Whether all sizes are tiny.
    """

    output: str
    data_dir: str
    checkpoint: str | None
    precision: str
    epochs: int | None
    seeds: int
    quick: bool

    def jobs(self) -> list[Job]:
        """Returns all jobs, those of most value first."""
        trained = [(task, name) for name in METHODS for task in ("mnist", "fashion_mnist")]
        moved = [("moved_mnist", "mnist"), ("moved_fashion_mnist", "fashion_mnist")]
        on_cifar10 = [("cifar10", name) for name in ON_CIFAR10]
        first, later = self._benches()
        return [
            *first,
            *(self._cell(task, name) for task, name in trained),
            *(self._moved(*task, name) for name in ("dynamic", "l2") for task in moved),
            *later,
            *self._memories(),
            self._time_to_94(),
            *(self._cell(*pair) for pair in on_cifar10),
            *self._inferences(),
            *(self._multi_mnist(name) for name in ("l2", "dynamic")),
            self._baselines("cnn-without-bn", "cnn_without_bn", seeds=1),
            self._baselines("cnn-ten-seeds", "cnn", seeds=10),
            *(self._cell(*pair, seeds=self.seeds) for pair in (*trained, *on_cifar10)),
        ]

    def _bench(self, name, backend, sections, *words, **options):
        words = [BENCH, "--only", sections, "--csv", f"{self.output}/{name}/bench.csv", *words]
        if sections != "memory":
            words += ["--repeats", "1"] if self.quick else ["--batch-size", "128"]
        if sections != "votes":
            words += ["--routings", "l2" if self.quick else ROUTINGS]
        words += ["--quick"] * self.quick
        options = {"alone": True, "seconds": 90.0} | options
        return Job(name, tuple(words), name, backend, **options)

    def _benches(self):
        """Returns the jobs that time layers, steps and votes, and those for half precision."""
        half = ("--precision", "mixed_bfloat16")
        return [
            self._bench("bench-jax", "jax", "layer,convolution,step"),
            self._bench("votes-jax", "jax", "votes"),
            self._bench("bench-torch", "torch", "layer,convolution,step,votes"),
        ], [
            self._bench("bench-jax-bfloat16", "jax", "convolution,step,layer", *half),
            self._bench("votes-jax-bfloat16", "jax", "votes", *half),
            self._bench("bench-torch-bfloat16", "torch", "convolution,step,layer,votes", *half),
        ]

    def _memories(self):
        """Returns the jobs that measure memory, beside which others may run."""
        return [
            self._bench(f"memory-{backend}", backend, "memory", alone=False)
            for backend in ("jax", "torch")
        ]

    def _images(self, *names):
        """Returns words that choose images, and the files that these need."""
        if self.quick:
            return ["--synthetic", "--limit", "200", "--precision", self.precision], ()
        words = ["--data-dir", self.data_dir, "--precision", self.precision]
        return words, tuple(f"{self.data_dir}/{name}.npz" for name in names)

    def _study(self, name, words, images, folder=None, **options):
        """Returns a job that trains, and goes on with what is in its folder."""
        chosen, needs = self._images(images)
        folder = folder or name
        words = (*words, "--output", f"{self.output}/{folder}", *chosen)
        return Job(name, words, folder, needs=needs, **options)

    def _reproduce(self, table, task, method, seeds, epochs, **options):
        words = [REPRODUCE, table, "--tasks", task, "--methods", method, "--seeds", str(seeds)]
        words += ["--budget", "cpu" if self.quick else "gpu_minutes"]
        words += ["--epochs", str(1 if self.quick else epochs)] * bool(self.quick or epochs)
        return self._study(words=words, **({"images": task} | options))

    def _cell(self, task, method, seeds=1):
        folder = f"table2-{task}-{method}"
        name = folder if seeds == 1 else f"{folder}-{seeds}-seeds"
        options = {"name": name, "folder": folder, "seconds": 240.0 * seeds}
        return self._reproduce("table2", task, method, seeds, self.epochs, **options)

    def _moved(self, task, images, method):
        options = {"name": f"{task}-{method}", "images": images}
        return self._reproduce("moved", task, method, 1, self.epochs, **options)

    def _time_to_94(self):
        options = {"name": "time-to-94", "images": "cifar10", "alone": True, "seconds": 120.0}
        method = ("time_to_94", "varied_cifar10", "deep_uniform")
        return self._reproduce(*method, 1, self.epochs, **options)

    def _multi_mnist(self, method):
        options = {"name": f"multi_mnist-{method}", "images": "mnist"}
        return self._reproduce("multi_mnist", "multi_mnist", method, 1, self.epochs, **options)

    def _baselines(self, name, model, seeds):
        words = [BASELINES, "--data", "cifar10", "--models", model, "--seeds", str(seeds)]
        words += ["--steps", "2"] * self.quick
        return self._study(name, words, "cifar10")

    def _inferences(self):
        """Returns the jobs that time the same model in each runtime."""
        trained = f"{self.output}/table2-mnist-dynamic/mnist/dynamic-0"
        folder, found = self.checkpoint or trained, []
        for runtime in ("onnxruntime", "jax", "torch"):
            name = f"inference-{runtime}"
            words = [INFERENCE, "--model", folder, "--csv", f"{self.output}/{name}/inference.csv"]
            words += ["--onnx"] * (runtime == "onnxruntime") + ["--quick"] * self.quick
            backend = "jax" if runtime == "onnxruntime" else runtime
            options = {"alone": True, "seconds": 75.0, "needs": (f"{folder}/model.keras",)}
            found.append(Job(name, tuple(words), name, backend, **options))
        return found
