"""Gradients, steps, waiting, memory and the machine's name, which differ between backends."""

import contextlib
import ctypes
import os
import sys
import time
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


def step_function(model, images, labels):
    """Returns a function without arguments that trains a compiled model for one step on a batch.

    On JAX and torch the batch stays on the device, and the function does not wait for the step:
    on a GPU, whose steps take about a millisecond, Keras' `train_on_batch` would time the copies of
    the batch, and on JAX those of the state in and out of the variables.
    """
    if BACKEND == "tensorflow":
        return lambda: model.train_on_batch(images, labels)
    batch = tuple(keras.ops.convert_to_tensor(x) for x in (images, labels))
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    if BACKEND == "torch":
        return lambda: model.train_function([batch])
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)

    def step():
        nonlocal state  # Keras' function takes the memory of the old state for the new one.
        logs, state = model.train_function(state, iter([batch]))
        return logs

    return step


def inference_function(model):
    """Returns a function from a batch on the device to the outputs, as a server would compile it.

    It leaves PyTorch eager, as Keras does.
    """
    if BACKEND == "jax":
        import jax

        values = [
            [variable.value for variable in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        ]
        call = jax.jit(lambda values, x: model.stateless_call(*values, x, training=False)[0])
        return lambda x: call(values, x)
    if BACKEND == "torch":
        import torch

        def infer(x):
            with torch.inference_mode():
                return model(x, training=False)

        return infer

    import tensorflow as tf

    return tf.function(lambda x: model(x, training=False))


def compiling_threads():
    """Returns how many programs to compile at a time, which pays where XLA compiles for a GPU."""
    return min(8, os.cpu_count()) if BACKEND == "jax" else 1


def full_precision():
    """Returns a context in which JAX multiplies float32 matrices in float32 on a GPU, too."""
    if BACKEND == "jax":
        import jax

        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def use_tensor_cores():
    """Has PyTorch multiply in TF32 and try out convolutions, as JAX does on a GPU."""
    if BACKEND == "torch":
        import torch

        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


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


def more_at_peak(call):
    """Returns MiB that are in use at the peak of a call more than before it; see `memory`.

    What a process holds free from earlier calls is not counted where a call takes it again: the
    largest of several values is the best. On a CPU, TensorFlow holds all of it, unless the variable
    TF_ONEDNN_USE_SYSTEM_ALLOCATOR was 1 when the process began.

    Raises:
        OSError: where the system is not Linux.
        RuntimeError: for JAX on a GPU, which does not let the peak begin anew.
    """
    if gpu_name() is None:
        time.sleep(0.02)  # JAX frees what a call took in a thread of its own.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.reset_memory_stats("GPU:0")
    elif BACKEND == "torch":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        raise RuntimeError("JAX does not tell the peak of one call on a GPU.")
    before, _ = memory()
    wait(call())
    return memory()[1] - before


def versions():
    """Returns machine and versions in one line that does not identify the machine."""
    backend = sys.modules[BACKEND]
    return f"{machine()}, Keras {keras.__version__}, {BACKEND} {backend.__version__}"
