"""The page on classes of pixels: its code runs, on fewer pictures and for one pass."""

import pathlib
import re

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "segmentation.md"


def test_the_guide_to_segmentation(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    fewer = {"count=6000": "count=64", "count=1000": "count=60", "epochs=12": "epochs=1"}
    for whole, few in fewer.items():
        assert text.count(whole) == 1
        text = text.replace(whole, few)
    names = {}
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(example, names)
    assert names["model"].output_shape == (None, None, None, 10)
    assert f"{names['model'].count_params():,} weights" in text
    true, pictures = names["true"], names["x_test"]
    assert set(np.unique(true.sum(-1))) == {0, 1, 2}
    assert not true[pictures[..., 0] == 0].any()
    assert "intersection over union: " in capsys.readouterr().out
    larger = names["model"].predict(np.zeros((1, 20, 16, 1)), verbose=0)
    assert larger.shape == (1, 20, 16, 10)
    assert 3_000 < (tmp_path / "segmentation.png").stat().st_size < 200_000
