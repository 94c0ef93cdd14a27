"""Gradients, waiting, memory and the machine's name, which differ between backends."""

import sys
from pathlib import Path

import keras

from harness.provenance import gpu_name, machine

BACKEND = keras.backend.backend()


def gradient_function(layer):
    """Returns a function `(inputs, upstream) -> poses, [d inputs, d kernel]` in training mode.

    It is compiled as Keras compiles a training step, which leaves PyTorch eager.
    """
    if BACKEND == "jax":
        import jax

        @jax.jit
        def gradient(inputs, upstream, kernel):
            def call(inputs, kernel):
                with keras.StatelessScope([(layer.kernel, kernel)]):
                    return layer(inputs, training=True)

            poses, backward = jax.vjp(call, inputs, kernel)
            return poses, backward(upstream)

        # An argument, because XLA would compute with a captured kernel while it compiles.
        return lambda inputs, upstream: gradient(inputs, upstream, layer.kernel.value)

    if BACKEND == "torch":
        import torch

        def gradient(inputs, upstream):
            inputs = inputs.detach().requires_grad_()
            poses = layer(inputs, training=True)
            return poses, torch.autograd.grad(poses, [inputs, layer.kernel.value], upstream)

        return gradient

    import tensorflow as tf

    @tf.function
    def gradient(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            poses = layer(inputs, training=True)
        return poses, tape.gradient(poses, [inputs, layer.kernel.value], upstream)

    return gradient


def wait(result):
    """Waits until the device has computed `result`."""
    if BACKEND == "jax":
        import jax

        jax.block_until_ready(result)
    elif BACKEND == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    else:
        import tensorflow as tf

        tf.test.experimental.sync_devices()


def memory():
    """Returns MiB in use now and at the peak, of the GPU where there is one or this process."""
    if gpu_name() is None:
        # Not `getrusage`, whose peak starts at that of the parent process.
        status = Path("/proc/self/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in status)
        return tuple(int(fields[name].split()[0]) / 2**10 for name in ("VmRSS", "VmHWM"))
    if BACKEND == "jax":
        import jax

        stats = jax.devices()[0].memory_stats()
        sizes = stats["bytes_in_use"], stats["peak_bytes_in_use"]
    elif BACKEND == "torch":
        import torch

        sizes = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    else:
        import tensorflow as tf

        stats = tf.config.experimental.get_memory_info("GPU:0")
        sizes = stats["current"], stats["peak"]
    return tuple(size / 2**20 for size in sizes)


def versions():
    """Returns machine and versions in one line that does not identify the machine."""
    backend = sys.modules[BACKEND]
    return f"{machine()}, Keras {keras.__version__}, {BACKEND} {backend.__version__}"
