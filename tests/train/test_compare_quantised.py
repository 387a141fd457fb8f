"""A row that the vendor's toolkit calibrates, on a fake toolkit: its log is kept, and heads without scales are read."""

import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from deploy.convert.rknn_build import ConversionError
from tests.train.test_quantising import float_model, recipe_of
from train.checkpoint import save_checkpoint
from train.compare_quantised import quantised_leg

FAKE = Path(__file__).parents[1] / "deploy" / "fake_rknn.py"


@pytest.fixture
def row(tmp_path, monkeypatch):
    """Return a function that makes the recipe of a toolkit's row; the toolkit fails in the way that is named."""
    package = tmp_path / "path" / "rknn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copyfile(FAKE, package / "api.py")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    state = float_model().state_dict()
    content = {"version": 1, "model": state, "size": "n", "class_names": ["square", "disc"], "image_size": 64}
    save_checkpoint(tmp_path / "float.pt", {**content, "training": {"epochs": 7}})

    def make(mode, algorithm):
        monkeypatch.setenv("FAKE_RKNN", mode)
        recipe = recipe_of(quantize={"method": "toolkit", "checkpoint": str(tmp_path / "float.pt")})
        changes = {"algorithm": algorithm, "calibration_images": 2, "processes": 1}
        return recipe.model_copy(update={"export": recipe.export.model_copy(update=changes)})

    return make


@pytest.mark.parametrize("algorithm", ["normal", "mmse"])
def test_a_row_of_the_toolkit_keeps_its_log(algorithm, row, tmp_path, pictures):
    """`mmse` tells no scales: its heads are read as floats."""
    where = tmp_path / "out" / "seed0"
    found, minutes, _ = quantised_leg(row("", algorithm), where, pictures, pictures, None, Console(quiet=True))
    assert len(found) == len(pictures.images)
    assert minutes == 0.0
    assert [path.name for path in where.iterdir()] == ["convert.log"]
    assert "Network Layer Information Table" in (where / "convert.log").read_text()


def test_a_failed_row_names_a_log_that_is_there(row, tmp_path, pictures):
    where = tmp_path / "out" / "seed0"
    log = where / "convert.log"
    with pytest.raises(ConversionError, match=rf"class_16, box_32; log: {re.escape(str(log))}$"):
        quantised_leg(row("scale lost", "normal"), where, pictures, pictures, None, Console(quiet=True))
    assert log.is_file()
