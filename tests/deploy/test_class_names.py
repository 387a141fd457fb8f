"""Class names: every form gives the same list, and a file that does not do is told with its line or class."""

from __future__ import annotations

import sys

import pytest

from deploy.class_names import read_class_names


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "ship\n oil tank \nöl\n\n"),
        ("a.names", "\ufeffship\r\noil tank\r\nöl"),
        ("a.json", '["ship", "oil tank", "öl"]'),
        ("b.json", '{"names": {"2": "öl", "0": "ship", "1": "oil tank"}, "nc": 3}'),
        ("a.yaml", "path: /data\nnames:\n  0: ship\n  1: oil tank\n  2: öl\n"),
        ("b.yml", "names: [ship, oil tank, öl]\n"),
    ],
)
def test_class_names_of_all_forms(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_class_names(tmp_path / name) == ["ship", "oil tank", "öl"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "holds no class name"),
        ("a.txt", "ship\n\ntank\n", "class 1 has no name .an empty line counts"),
        ("a.txt", "ship\ntank\nship\n", "'ship' is class 0 and 2"),
        ("a.csv", "ship", "must be in a file that ends in .txt"),
        ("a.json", '["ship"', "not valid JSON"),
        ("a.json", "[" * 99999, "not valid JSON"),
        ("a.json", '{"names": {"0": "ship", "2": "tank"}}', "each number once, got the keys '0', '2'"),
        ("a.json", '{"names": "ship"}', "got str"),
        ("a.json", "[1, 2]", "class 0 must be text, got 1"),
        ("a.yaml", "names: [ship", "not valid YAML"),
        ("a.yaml", "names: [ship, 7]", "class 1 must be text, got 7"),
    ],
)
def test_class_names_that_do_not_do(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_class_names(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_class_names_without_a_file_or_a_parser(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="is missing"):
        read_class_names(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_class_names(tmp_path / "a.txt")
    (tmp_path / "a.yaml").write_text("names: [a]")
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    with pytest.raises(ValueError, match=r"pip install ruamel.yaml, or write the names into a .txt file"):
        read_class_names(tmp_path / "a.yaml")
