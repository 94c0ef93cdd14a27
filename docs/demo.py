"""Makes a checkpoint folder of weights that come with kcaps, for a page of the site.

python docs/demo.py build/demo
"""

import json
import pathlib
import sys

from export import checkpoint, images
from export.command import fail, set_up

NETWORK, WEIGHTS = "efficient_capsnet", "mnist"


def main() -> None:
    """Writes what `export.web` needs into the folder that the first argument names."""
    set_up()
    from kcaps import models
    from kcaps.models import pretrained

    cards = {(card.architecture, card.weights): card for card in pretrained.cards()}
    card = cards.get((NETWORK, WEIGHTS))
    if card is None:
        fail(f"no weights of {NETWORK} for {WEIGHTS} come with kcaps yet")
    data = {"name": card.data, "title": "MNIST", "loader": "tensorflow-datasets"}
    run = checkpoint.run_content(card.command, data, list(card.class_names))
    # From them, the page learns how its drawings are to be placed.
    if images.of_run(run, limit=1) is None:
        fail(f"the test images of {card.data} have not been prepared by tensorflow-datasets")
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    getattr(models, NETWORK)(weights=WEIGHTS).save(folder / "model.keras")
    report = {"test_accuracy": card.test_accuracy}
    for name, content in (("run.json", run), ("report.json", report)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
