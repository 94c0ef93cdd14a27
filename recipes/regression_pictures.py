"""Pictures of capsule regression, as in its paper."""

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FILES = ("error_by_dimension.png", "latent.png", "prototypes.png", "curves.png")


def _save(figure, path):
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_sweep(rows, images, output):
    """Test error against the dimension of capsules, one line for each architecture (Figure 5)."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    figure.suptitle(f"Capsule regression ({images.title})")
    for name in dict.fromkeys(row["architecture"] for row in rows):
        line = sorted(
            (r["capsule_dim"], 100 * r["test_error"]) for r in rows if r["architecture"] == name
        )
        axis.plot(*zip(*line, strict=True), marker="o", label=name.replace("_", " "))
    axis.set(xscale="log", xlabel="capsule dimension d", ylabel="test error / %")
    dims = sorted({row["capsule_dim"] for row in rows})
    axis.set_xticks(dims, dims)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, output / "error_by_dimension.png")


def draw(model, images, output):
    """All pictures of one trained model."""
