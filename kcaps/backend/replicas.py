"""Training on several replicas by `tf.distribute`, where Keras' own `fit` needs help."""

import contextlib
import functools
from collections.abc import Callable

import keras
from keras import ops

HAS_REPLICAS = keras.backend.backend() == "tensorflow"  # JAX shards one program instead.

if HAS_REPLICAS:
    import tensorflow as tf


def num_replicas() -> int:
    """Returns the number of replicas that share a batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync if HAS_REPLICAS else 1


def total(tensors):
    """Returns the sums of a structure of tensors over the replicas, of which each calls this."""
    if num_replicas() == 1:
        return tensors
    flat = keras.tree.flatten(tensors)
    sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)
    return keras.tree.pack_sequence_as(tensors, sums)


def in_scope(method: Callable) -> Callable:
    """Decorates a method of a `Replicated` to create, read and set variables as replicas."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        with self.distribute_strategy.scope() if HAS_REPLICAS else contextlib.nullcontext():
            return method(self, *args, **kwargs)

    return run


class Replicated:
    """Mixin of models that Keras' `fit` trains under each `tf.distribute` strategy."""

    if HAS_REPLICAS:

        @property
        def _has_workers(self):
            strategy = self.distribute_strategy
            replicas = strategy.num_replicas_in_sync
            return replicas > 1 and replicas > len(strategy.extended.worker_devices)

        # To see a batch's form, Keras adds up what the replicas hold of it, which must then be
        # equally many examples; with workers it takes the one share that a worker holds for a
        # tensor. Here the form is that of the first replica's share.
        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            if self.distribute_strategy.num_replicas_in_sync > 1 and iterator is not None:
                if self.train_function or self.test_function:
                    return  # All is built, and a batch of replicas takes long to set up.
                _, _, batches = next(iter(iterator))
                local = self.distribute_strategy.experimental_local_results
                data_batch = keras.tree.map_structure(lambda v: local(v)[0], next(batches))
                iterator = None
            super()._maybe_symbolic_build(iterator, data_batch)

        # With workers, Keras reduces each step's logs along an axis, which scalars do not have.
        def _make_function(self, step_function):
            def with_vectors(data):
                logs = step_function(data)
                return keras.tree.map_structure(lambda v: ops.reshape(v, (1,)), logs)

            return super()._make_function(with_vectors if self._has_workers else step_function)

        # Logs of a step are means over the replicas, of which some may have more examples.
        def _get_metrics_result_or_logs(self, logs):
            if self.distribute_strategy.num_replicas_in_sync == 1:
                return super()._get_metrics_result_or_logs(logs)
            results = self.get_metrics_result()
            return {name: results.get(name, value) for name, value in logs.items()}

    def _on_replicas(self, function, *args):
        """Calls the function once on each replica."""
        if HAS_REPLICAS:
            self.distribute_strategy.run(function, args)
        else:
            function(*args)

    def _take_over(self, variables):
        """Gives variables the values that they have on the first replica of the first worker.

        Values that workers compute alike may differ in the last digits on different machines.
        """
        if not HAS_REPLICAS or not self._has_workers:
            return

        def first_values():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            values = [ops.convert_to_tensor(variable) for variable in variables]
            return total([ops.where(number == 0, v, ops.zeros_like(v)) for v in values])

        values = self.distribute_strategy.run(first_values)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(self.distribute_strategy.experimental_local_results(value)[0])
