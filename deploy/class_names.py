"""Class names from a file: one a line, or the `names` of a JSON or YAML file, as data sets of YOLO models have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUFFIXES = (".txt", ".names", ".json", ".yaml", ".yml")
_SHAPE = "a list, or numbers from 0 with their names"


def read_class_names(path: Path) -> list[str]:
    """Read the names of a model's classes in their order.

    .txt, .names: one name a line. .json, .yaml: a list, or numbers from 0 with their names; or either of them under
    `names`. YAML needs ruamel.yaml.

    Raises FileNotFoundError and ValueError with the file, the rule, what came and the cure.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name a file with the model's class names, one a line")
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"{path}: class names must be in a file that ends in {', '.join(SUFFIXES)}, got {path.name!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    if kind == ".json":
        try:
            names = _listed(json.loads(text), path)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON ({error}); mend it, or write one name a line") from error
    elif kind in (".yaml", ".yml"):
        names = _listed(_yaml(text, path), path)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    return _checked(names, path)


def _listed(content: Any, path: Path) -> list[Any]:
    if isinstance(content, dict) and "names" in content:
        content = content["names"]
    if isinstance(content, dict):
        # JSON has text keys only.
        numbered = {int(k) if isinstance(k, str) and k.isdecimal() else k: v for k, v in content.items()}
        if set(numbered) != set(range(len(content))):
            shown = ", ".join(map(repr, list(content)[:5]))
            raise ValueError(f"{path}: names must be {_SHAPE}, each number once, got the keys {shown}; mend the file")
        return [numbered[i] for i in range(len(numbered))]
    if not isinstance(content, list):
        raise ValueError(f"{path}: names must be {_SHAPE}, got {type(content).__name__}; mend the file")
    return content


def _checked(names: list[Any], path: Path) -> list[str]:
    if not names:
        raise ValueError(f"{path} holds no class name; write one a line")
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise ValueError(f"{path}: class {i} must be text, got {name!r}; put it in quotation marks")
        if not name.strip():
            raise ValueError(f"{path}: class {i} has no name (an empty line counts as a class); name it or remove it")
        if name in seen:
            raise ValueError(
                f"{path}: every class must have a name of its own, {name!r} is class {seen[name]} and {i}; rename one"
            )
        seen[name] = i
    return names


def _yaml(text: str, path: Path) -> Any:
    """Parse YAML; the vendor's wheels bring ruamel.yaml along."""
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError as error:
        raise ValueError(
            f"{path}: reading YAML needs the Python package ruamel.yaml, which cannot be imported ({error}); "
            "pip install ruamel.yaml, or write the names into a .txt file, one a line"
        ) from error
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML ({told[:120]}); mend it, or write one name a line") from error
