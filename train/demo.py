"""The demo: the whole walk on drawn scenes, with no download, in a few minutes on two cores."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rich.console import Console

from .recipe import load_recipe
from .walk import walk_recipe


def run(out: Path, from_scratch: bool = False, seed: int = 0) -> Path:
    """Draw scenes, fine-tune, export, score three forms side by side; print a table and where the files are.

    A finished demo in `out` is replaced: it can be drawn again at any time. Another training run there is not touched
    (ValueError).
    """
    started = time.perf_counter()
    console = Console()
    overrides = [f"data.root={out / 'data'}", f"data.seed={seed + 7}", f"train.seed={seed}"]
    if from_scratch:
        # A fresh network needs more steps than the demo's few minutes hold; expect longer, and a lower score.
        overrides += ["model.weights=none", "train.learning_rate=0.002", "train.warmup_epochs=1", "train.epochs=20"]
        overrides += ["train.validate_every=10"]
    recipe = load_recipe("demo", overrides)
    _clear(out)
    walk_recipe(recipe, out, console=console)
    console.print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes", highlight=False)
    return out


def _clear(out: Path) -> None:
    """Remove the files of an earlier demo, and only those: the mark says that it was one."""
    mark = out / "demo.txt"
    if out.is_dir() and any(out.iterdir()) and not mark.is_file():
        raise ValueError(f"{out} holds files that no demo wrote; choose another --out")
    for path in out.glob("*") if out.is_dir() else ():
        if path.name == "data":
            continue  # the drawn scenes are reused when seed and count are the same
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text("This folder was made by `rsedge demo`; the next demo replaces it.\n", encoding="utf-8")
