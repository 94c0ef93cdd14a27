"""Training steps of CapsNet on JAX, as functions from state to state."""

import keras


class TrainingSteps:
    """Mixin of `CapsNet` with the steps that Keras calls on each batch."""

    @property
    def metrics_variables(self):
        # What is neither a weight nor the optimizer's, but changes in training, has its place here
        # in the state that Keras passes around.
        routing_optimizer = getattr(self, "routing_optimizer", None)
        variables = super().metrics_variables
        return variables + (routing_optimizer.variables if routing_optimizer else [])

    def train_step(self, state, data):
        routed = bool(self.routing_variables)
        if not routed and self.decoder is None:
            return super().train_step(state, data)
        values = _Values(
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        values.write(state)
        batch = keras.utils.unpack_x_y_sample_weight(data)
        joint = routed and self.update == "joint"
        for _ in range(self.weight_steps):
            outputs, loss = self._update(values, batch, weights=True, routing=joint)
        if routed and not joint:
            for _ in range(self.routing_steps):
                self._update(values, batch, weights=False, routing=True)
        with values.scope() as scope:
            logs = self._update_metrics(*batch, outputs, loss)
        values.update(scope)
        return logs, values.read()

    def test_step(self, state, data):
        if self.decoder is None:
            return super().test_step(state, data)
        values = _Values(
            self.trainable_variables, self.non_trainable_variables, self.metrics_variables
        )
        values.write(state)
        batch = keras.utils.unpack_x_y_sample_weight(data)
        with values.scope() as scope:
            logs = self._update_metrics(*batch, *self._evaluate(*batch))
        values.update(scope)
        return logs, values.read()

    def _update(self, values, batch, weights, routing):
        """One gradient step on the weights, on the routing variables, or on both at once."""
        import jax

        steps = [(self.optimizer, self._other_variables())] * weights
        steps += [(self.routing_optimizer, self.routing_variables)] * routing

        def objectives(*start):
            inner = values.copy()
            for (_, variables), new in zip(steps, start, strict=True):
                inner.assign(variables, new)
            with inner.scope() as scope:
                outputs, loss, targets = self._objectives(*batch, weights, routing)
            inner.update(scope)
            return [target for target, _, _ in targets], (outputs, loss, inner.read())

        start = [values.of(variables) for _, variables in steps]
        targets, pull_back, (outputs, loss, state) = jax.vjp(objectives, *start, has_aux=True)
        values.write(state)  # what the pass itself changed, as batch normalisation does
        for index, (optimizer, variables) in enumerate(steps):
            one_hot = [jax.numpy.full_like(t, n == index) for n, t in enumerate(targets)]
            gradients = pull_back(one_hot)[index]
            new, optimizer_state = optimizer.stateless_apply(
                values.of(optimizer.variables), gradients, start[index]
            )
            values.assign(variables, new)
            values.assign(optimizer.variables, optimizer_state)
        return outputs, loss


class _Values:
    """Values of groups of variables, in the order in which Keras passes them around."""

    def __init__(self, *groups):
        self.groups = groups
        self.values = {}

    def write(self, state):
        for variables, values in zip(self.groups, state, strict=True):
            self.assign(variables, values)

    def read(self):
        return tuple(self.of(variables) for variables in self.groups)

    def assign(self, variables, values):
        pairs = zip(variables, values, strict=True)
        self.values |= {id(variable): value for variable, value in pairs}

    def of(self, variables):
        return [self.values[id(variable)] for variable in variables]

    def copy(self):
        copy = _Values(*self.groups)
        copy.values = dict(self.values)
        return copy

    def scope(self):
        """A scope in which the variables have these values."""
        pairs = [(v, self.values[id(v)]) for variables in self.groups for v in variables]
        return keras.StatelessScope(pairs, collect_losses=True)

    def update(self, scope):
        """Takes the values that the variables were left with in `scope`."""
        for variables in self.groups:
            self.assign(variables, [scope.get_current_value(variable) for variable in variables])
