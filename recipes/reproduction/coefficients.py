"""The coefficients of l1 and l2 as methods of their own: objectives, rates γ and penalties λ."""

import dataclasses
import pathlib

import keras
import numpy as np

from kcaps.routing import DiscriminativeRouting

NAMES = ("change", "zeros", "negative")


@dataclasses.dataclass(frozen=True)
class Variant:
    """How coefficients ascend.

    Args:
        penalty: `"l1"` or `"l2"`.
        rate: γ, at the start of a cosine.
        penalty_weight: λ.
        is_on_sphere: Whether the coefficients of a class keep a norm of one, and ascend the mean
            over the batch, in which present and absent classes weigh the same. Otherwise they
            ascend the sum, as printed, which is unbounded.
    """

    penalty: str
    rate: float
    penalty_weight: float
    is_on_sphere: bool = False

    @property
    def name(self) -> str:
        """The name of the method: penalty, γ and λ."""
        place = "_sphere" if self.is_on_sphere else ""
        return f"{self.penalty}{place}_{self.rate:g}_{self.penalty_weight:g}"

    def routing(self, num_inputs: int) -> DiscriminativeRouting:
        """Returns the routing of so many input capsules."""
        options = {"penalty": self.penalty, "penalty_weight": self.penalty_weight}
        if self.is_on_sphere:
            options |= {
                "balanced": True,
                "reduction": "mean",
                "coefficients_initializer": keras.initializers.Constant(num_inputs**-0.5),
                "coefficients_constraint": keras.constraints.UnitNorm(axis=0),
            }
        return DiscriminativeRouting(**options)


def _variants():
    for penalty in ("l1", "l2"):
        for rate in (5e-6, 5e-5, 5e-4):
            for weight in (0.05, 0.5, 5.0):
                yield Variant(penalty, rate, weight)
    # λ of l2 does nothing on a sphere.
    for rate in (1e-3, 1e-2, 1e-1):
        yield Variant("l2", rate, 0.0, is_on_sphere=True)
        for weight in (1e-3, 1e-2):
            yield Variant("l1", rate, weight, is_on_sphere=True)


VARIANTS = {variant.name: variant for variant in _variants()}


def measure(model_path: pathlib.Path) -> dict[str, float | str]:
    """Returns what training has made of the coefficients of a saved network.

    Returns:
        `"change"`, which is `‖b - b₀‖ / ‖b₀‖`, and the shares of coefficients that are zero and
        negative, in per cent; each empty for a routing without coefficients.
    """
    layer = keras.saving.load_model(model_path).class_layer
    routing = layer.routing
    if not isinstance(routing, DiscriminativeRouting):
        return dict.fromkeys(NAMES, "")
    fresh = DiscriminativeRouting.from_config(routing.get_config())
    fresh.build((None, *layer.kernel.shape[:2]), layer.kernel.shape)
    found, start = (keras.ops.convert_to_numpy(x.coefficients) for x in (routing, fresh))
    return {
        "change": float(np.linalg.norm(found - start) / np.linalg.norm(start)),
        "zeros": 100 * float(np.mean(found == 0)),
        "negative": 100 * float(np.mean(found < 0)),
    }
