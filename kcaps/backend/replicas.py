"""Training on several replicas by `tf.distribute`, where Keras' own `fit` needs help."""

import contextlib
import functools

import keras
from keras import ops

HAS_REPLICAS = keras.backend.backend() == "tensorflow"  # JAX shards one program instead

if HAS_REPLICAS:
    import tensorflow as tf


def num_replicas():
    """Number of replicas that share a batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync if HAS_REPLICAS else 1


def total(tensors):
    """Sums of a structure of tensors over the replicas, of which each calls this."""
    if num_replicas() == 1:
        return tensors
    flat = keras.tree.flatten(tensors)
    sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)
    return keras.tree.pack_sequence_as(tensors, sums)


def in_scope(method):
    """Method of a `Replicated` that runs where variables are created, read and set as replicas."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        with self.distribute_strategy.scope() if HAS_REPLICAS else contextlib.nullcontext():
            return method(self, *args, **kwargs)

    return run


class Replicated:
    """Mixin of models that Keras' `fit` trains under each `tf.distribute` strategy.

    To see a batch's form, Keras adds up what the replicas hold of it, which must then be equally
    many examples; under `MultiWorkerMirroredStrategy` it takes the one share that a worker holds
    for a tensor. There it also reduces each step's logs along an axis, which scalars do not have.
    """

    if HAS_REPLICAS:

        @property
        def _has_workers(self):
            strategy = self.distribute_strategy
            replicas = strategy.num_replicas_in_sync
            return replicas > 1 and replicas > len(strategy.extended.worker_devices)

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            if self.distribute_strategy.num_replicas_in_sync > 1 and iterator is not None:
                if self.train_function or self.test_function:
                    return  # all is built; a batch of replicas takes long to set up
                _, _, batches = next(iter(iterator))
                local = self.distribute_strategy.experimental_local_results
                data_batch = keras.tree.map_structure(lambda v: local(v)[0], next(batches))
                iterator = None
            super()._maybe_symbolic_build(iterator, data_batch)

        def _make_function(self, step_function):
            def with_vectors(data):
                logs = step_function(data)
                return keras.tree.map_structure(lambda v: ops.reshape(v, (1,)), logs)

            return super()._make_function(with_vectors if self._has_workers else step_function)

        def _get_metrics_result_or_logs(self, logs):
            if self.distribute_strategy.num_replicas_in_sync == 1:
                return super()._get_metrics_result_or_logs(logs)
            # Logs of a step are means over the replicas, of which some may have more examples.
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

        What workers compute alike may differ in the last digits on machines of another kind.
        """
        if not HAS_REPLICAS or not self._has_workers:
            return

        def of_first():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            values = [ops.convert_to_tensor(variable) for variable in variables]
            return total([ops.where(number == 0, v, ops.zeros_like(v)) for v in values])

        for variable, value in zip(variables, self.distribute_strategy.run(of_first), strict=True):
            variable.assign(self.distribute_strategy.experimental_local_results(value)[0])
