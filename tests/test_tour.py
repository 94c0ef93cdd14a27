"""The tour: its source runs, and the notebook that is kept is what its source says."""

import jupytext
import nbformat
import pytest
from jupytext.compare import compare_notebooks
from nbclient import NotebookClient

from kcaps.models import pretrained
from programs import ROOT

SOURCE, NOTEBOOK = ROOT / "docs/tour.md", ROOT / "docs/tour.ipynb"
MOST_BYTES = 10**6


def check(notebook):
    """Checks that each cell of code was run once, that none complained, and what can be seen."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [x for x in outputs if x.output_type == "error" or x.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 8
    assert len(nbformat.writes(notebook).encode()) < MOST_BYTES
    told = "".join(output.get("text", "") for output in outputs)
    for words in ("of 1,797 digits are read", "70 letters to learn from", "MB, differs by"):
        assert words in told
    assert "WARNING" not in told


@pytest.mark.long
@pytest.mark.skipif(
    "efficient_capsnet-mnist.npz" not in [card.path.name for card in pretrained.cards()],
    reason="there are no weights of efficient_capsnet for mnist yet",
)
def test_the_source_runs(tmp_path):
    notebook = jupytext.read(SOURCE)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    check(notebook)
    assert not list(tmp_path.iterdir()), "it writes where it was started"


@pytest.mark.skipif(
    not NOTEBOOK.exists(), reason="docs/tour.ipynb is not made yet: `make notebook` makes it"
)
def test_the_notebook_is_what_its_source_says():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    compare_notebooks(notebook, jupytext.read(SOURCE), "md")
    check(notebook)
