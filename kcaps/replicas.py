"""Training on several replicas by `tf.distribute`, where Keras' own `fit` needs help."""

import keras


def num_replicas():
    """Number of replicas that share a batch."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


class Replicated:
    """Mixin of models that Keras' `fit` trains under each `tf.distribute` strategy.

    Of several workers, each runs the same program under `MultiWorkerMirroredStrategy`. There Keras
    takes what a worker holds of a batch for a tensor, and reduces each step's logs along an axis
    that scalars do not have.
    """

    if keras.backend.backend() == "tensorflow":

        @property
        def _has_workers(self):
            strategy = self.distribute_strategy
            return strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            if self._has_workers and iterator is not None:
                _, _, batches = next(iter(iterator))
                local = self.distribute_strategy.experimental_local_results
                data_batch = keras.tree.map_structure(lambda v: local(v)[0], next(batches))
                iterator = None
            super()._maybe_symbolic_build(iterator, data_batch)

        def _make_function(self, step_function):
            def with_vectors(data):
                logs = step_function(data)
                return keras.tree.map_structure(lambda v: keras.ops.reshape(v, (1,)), logs)

            return super()._make_function(with_vectors if self._has_workers else step_function)
