"""`rsedge compare`: from the command line to a plan."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from .compare import Plan, compare
from .rows import variants_of


def run(
    recipes: list[str],
    rows: str | None,
    seeds: int,
    folds: int,
    references: list[str],
    resamples: int,
    cache_teacher: bool,
    overrides: list[str],
    out: Path,
) -> None:
    """Compare recipes and print where the table lies. Raises ValueError, FileNotFoundError or OSError with one line."""
    if out.is_file():
        raise ValueError(f"--out {out} is a file; give a folder")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "rsedge compare runs in one process, it was started in several; start it without torchrun, or train the "
            "recipes one by one with torchrun and `rsedge train`"
        )
    if folds == 1:
        raise ValueError("--folds must be 0 (train against val) or at least 2, got 1")
    variants, named = variants_of(recipes, overrides, rows)
    plan = Plan(variants, seeds, folds, references or named or [variants[0].name], cache_teacher, resamples)
    console = Console()
    compare(plan, out, console)
    text = (out / "comparison.md").read_text(encoding="utf-8")
    console.print(text.partition("\n## ")[0], highlight=False, markup=False, soft_wrap=True)
    names = ("comparison.md", "comparison.json", "comparison.png")
    console.print("table: " + ", ".join(str(out / name) for name in names), highlight=False, soft_wrap=True)
