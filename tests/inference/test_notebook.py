"""The example notebook runs from top to bottom."""

import ast
import json

from agcnn_jax.configs import demo
from tests.support.programs import ROOT

NOTEBOOK = ROOT / "docs/use.ipynb"


def run_cell(source, names):
    """Run a cell as Jupyter does; return the value of its last line, None for a statement."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], None
    exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), names)
    return last and eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_it_runs_on_phantoms(workdir, data_dir, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(workdir)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/phantoms_raw").symlink_to(data_dir.parent / "raw")
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")  # where Jupyter starts it
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict = {}
    values = [run_cell(source, names) for source in sources]
    assert len(values) == 8 and "resnet_small, global local fusion" in repr(values[0])
    assert values[1] == names["result"].probability
    assert values[2]._repr_png_().startswith(b"\x89PNG")
    film, heat_map, region, _ = values[3]
    assert film == heat_map == (64, 64) and 0 < region[0] <= 64
    assert values[5].keys() == {"global", "local", "fusion"}
    assert values[7] is True


def test_its_outputs_are_of_the_demo():
    backbone = demo.get_config().backbone
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    (shown,) = cells[1]["outputs"]
    assert f"Model('../runs/demo', {backbone}, " in "".join(shown["data"]["text/plain"])
    assert not [out for cell in cells for out in cell.get("outputs", ()) if "ename" in out]
