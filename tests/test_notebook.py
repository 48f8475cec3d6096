"""The notebook runs from its first cell to its last, and what it trains is better than what it began with."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples/quickstart.ipynb"


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", plt.close)
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    names: dict[str, object] = {}
    for cell in code:
        if not cell.startswith("%pip"):
            exec(cell, names)
    lines = capsys.readouterr().out.splitlines()
    scores = {line.split()[0]: float(line.split()[1]) for line in lines if line.endswith(" %")}
    assert set(scores) == {"l2", "ssim", "tf_efficientnet_lite0", "trained"}
    assert scores["trained"] > scores["tf_efficientnet_lite0"]
    blurred, lighter = (float(line.split()[1]) for line in lines if line.startswith(("blurred", "lighter")))
    assert blurred > 10 * lighter > 0
