"""Say what a recipe's annotations hold, what is wrong in them, and show some of the images."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import track

from deploy.annotations import AnnotationSet, Problem
from deploy.images import read_image

from .checkpoint import write_atomically
from .data_report import draw_samples, print_summary, summarise
from .recipe import load_recipe
from .splits import load_split


def run(recipe_name: str, overrides: list[str], out: Path | None = None) -> Path:
    """Print a summary of both splits; write `data.json` and a picture per split to `out`. Returns `out`.

    Problems are listed, not raised: this is the command that shows them. Raises ValueError or FileNotFoundError where
    nothing can be read.
    """
    recipe = load_recipe(recipe_name, overrides)
    out = out or Path("runs") / "data" / recipe.name
    console = Console()
    result = {}
    for split in ("train", "val"):
        found = _readable(load_split(recipe, split, strict=False), console)
        summary = summarise(found, recipe.train.image_size)
        console.rule(f"{recipe.data.name or recipe.name}: {split}")
        print_summary(summary, found.problems, console)
        out.mkdir(parents=True, exist_ok=True)
        picture = out / f"{split}.jpg"
        if found.images:
            draw_samples(found, picture)
            console.print(f"sample images: {picture}", highlight=False, soft_wrap=True)
        result[split] = {**summary.to_json(), "problems": [str(p) for p in found.problems]}
    write_atomically(out / "data.json", (json.dumps(result, indent=2) + "\n").encode())
    console.print(f"figures, and every problem: {out / 'data.json'}", highlight=False, soft_wrap=True)
    return out


def _readable(found: AnnotationSet, console: Console) -> AnnotationSet:
    """Decode every image once: a truncated one has a sound header, and only this finds it before the training does."""
    images, problems = [], list(found.problems)
    bar = track(found.images, "reading images", console=console, disable=not console.is_terminal, transient=True)
    for entry in bar:
        try:
            read_image(entry.path)
            images.append(entry)
        except (ValueError, OSError) as error:
            message = str(error).removeprefix(f"{entry.path}: ")
            problems.append(Problem(entry.path, 0, "unreadable_image", message, fatal=True))
    return AnnotationSet(images, found.class_names, problems)
