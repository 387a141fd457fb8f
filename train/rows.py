"""The rows of a comparison: recipes, each as it is or varied by a table of overrides."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recipe import Recipe, load_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).parent / "comparisons"


@dataclass(frozen=True)
class Variant:
    """One row: its name in the table and the recipe that is trained."""

    name: str
    recipe: Recipe


def variants_of(recipes: list[str], overrides: list[str], rows: str | None) -> tuple[list[Variant], list[str]]:
    """Return the rows of `recipes`, and the names of the rows that `rows` calls references.

    rows: a TOML file, or the name of a shipped one, with `reference = NAME` or `[NAME, ...]` and tables `[rows.NAME]`
    of recipe keys; each recipe is then varied by each of them. overrides: `KEY=VALUE` for all rows, after the table's.
    Raises FileNotFoundError or ValueError with the cure.
    """
    if rows is None:
        names = _unique([Path(name).stem for name in recipes])
        return [Variant(n, load_recipe(r, overrides)) for n, r in zip(names, recipes, strict=True)], []
    table, reference = read_rows(rows)
    found = []
    for recipe in recipes:
        for name, keys in table.items():
            shown = name if len(recipes) == 1 else f"{Path(recipe).stem}: {name}"
            try:
                found.append(Variant(shown, load_recipe(recipe, [*keys, *overrides])))
            except ValueError as error:
                raise ValueError(f"{rows}, row {name!r}: {error}") from error
    return found, reference if len(recipes) == 1 else []


def read_rows(name: str) -> tuple[dict[str, list[str]], list[str]]:
    """Read a table of rows: {row: ["KEY=VALUE", ...]} and the references' names."""
    path = Path(name)
    if not path.is_file():
        path = SHIPPED / f"{name}.toml"
        if not path.is_file():
            shipped = sorted(p.stem for p in SHIPPED.glob("*.toml"))
            near = difflib.get_close_matches(name, shipped, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise FileNotFoundError(f"--rows {name}: no such file, and not shipped ({', '.join(shipped)}){hint}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}; mend that line") from error
    rows = content.pop("rows", None)
    reference = content.pop("reference", [])
    reference = [reference] if isinstance(reference, str) else reference
    if not isinstance(rows, dict) or not rows or not all(isinstance(v, dict) for v in rows.values()) or content:
        raise ValueError(f"{path}: must hold `reference` and tables [rows.NAME] with keys of a recipe, nothing else")
    for wanted in reference:
        if wanted not in rows:
            raise ValueError(f"{path}: reference must be one of its rows ({', '.join(rows)}), got {wanted!r}")
    return {row: [f"{k}={_toml(v)}" for k, v in _flat(keys)] for row, keys in rows.items()}, reference


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for key, value in tree.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat


def _toml(value: Any) -> str:
    """Write a value as the TOML that `--set` reads."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)


def _unique(names: list[str]) -> list[str]:
    """Raise ValueError where two recipes would share a row."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"compared recipes must have different names, {name!r} comes twice; rename a file")
    return names
