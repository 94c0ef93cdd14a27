"""When EM has converged: neither the likelihood nor the error gets better."""

import keras
import numpy as np


class Convergence(keras.callbacks.Callback):
    """Stops EM when some iterations have improved neither the likelihood nor the error.

    Without a threshold the penalised likelihood rises to a limit, and with it ends the improvement.
    With one, steps aim at the error, the likelihood may fall while the error still does, and the
    weights never come to rest: then it is the lowest error that ends. Both values have a bound, so
    that training always comes to an end.

    Args:
        tol: Improvement of the mean penalised log-likelihood that counts, by example and problem.
        n_iter_no_change: Iterations without an improvement that end training.
        penalty: Half the precision of the prior of the weights, divided by the sum of the weights
            of all examples.
        num_problems: Number of problems that each example takes part in, over which `loss` is a
            sum.

    Attributes:
        finished: Whether training came to its end.
    """

    def __init__(self, tol, n_iter_no_change, penalty, num_problems):
        super().__init__()
        self.tol, self.n_iter_no_change = tol, n_iter_no_change
        self.penalty, self.num_problems = penalty, num_problems

    def on_train_begin(self, logs=None):
        self.loss = self.error = np.inf
        self.wait, self.finished = 0, False

    def on_epoch_begin(self, epoch, logs=None):
        kernel = self.model.kernel.astype("float64")  # the weights that `loss` will be of
        self.prior = self.penalty * np.sum(np.square(kernel))

    def on_epoch_end(self, epoch, logs=None):
        loss, error = (logs["loss"] + self.prior) / self.num_problems, logs["error"]
        improves = loss < self.loss - self.tol or error < self.error
        self.loss, self.error = min(self.loss, loss), min(self.error, error)
        self.wait = 0 if improves else self.wait + 1
        if self.wait >= self.n_iter_no_change:
            self.finished = self.model.stop_training = True


class Lines(keras.callbacks.Callback):
    """Prints a line for each iteration."""

    def on_epoch_end(self, epoch, logs=None):
        values = ", ".join(f"{name} {value:.5f}" for name, value in logs.items())
        print(f"iteration {epoch + 1}: {values}", flush=True)
