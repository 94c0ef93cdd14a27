"""Training steps of CapsNet where variables change in place: TensorFlow and torch."""

import functools

import keras


class TrainingSteps:
    """Mixin of `CapsNet` with the steps that Keras calls on each batch."""

    def train_step(self, data):
        routed = bool(self.routing_variables)
        if not routed and self.decoder is None:
            return super().train_step(data)
        x, y, sample_weight = batch = keras.utils.unpack_x_y_sample_weight(data)
        joint = routed and self.update == "joint"
        for _ in range(self.weight_steps):
            outputs, loss = self._update(batch, weights=True, routing=joint)
        if routed and not joint:
            for _ in range(self.routing_steps):
                self._update(batch, weights=False, routing=True)
        return self._update_metrics(x, y, sample_weight, outputs, loss)

    def test_step(self, data):
        if self.decoder is None:
            return super().test_step(data)
        batch = keras.utils.unpack_x_y_sample_weight(data)
        return self._update_metrics(*batch, *self._evaluate(*batch))

    def _update(self, batch, weights, routing):
        """One gradient step on the weights, on the routing variables, or on both at once."""
        differentiate = _GRADIENTS[keras.backend.backend()]
        objectives = functools.partial(self._objectives, *batch, weights, routing)
        outputs, loss, steps = differentiate(objectives)
        for gradients, optimizer, variables in steps:
            optimizer.apply(gradients, variables)
        return outputs, loss


def _tensorflow_gradients(objectives):
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as tape:
        outputs, loss, targets = objectives()
    steps = [(tape.gradient(t, variables), *rest, variables) for t, *rest, variables in targets]
    return outputs, loss, steps


def _torch_gradients(objectives):
    import torch

    outputs, loss, targets = objectives()
    steps = []
    for target, optimizer, variables in targets:
        values = [variable.value for variable in variables]
        gradients = torch.autograd.grad(target, values, retain_graph=True, allow_unused=True)
        steps.append((gradients, optimizer, variables))
    return outputs, loss, steps


_GRADIENTS = {"tensorflow": _tensorflow_gradients, "torch": _torch_gradients}
