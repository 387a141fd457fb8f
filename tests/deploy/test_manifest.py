"""The manifest: what was saved comes back, and what is wrong is named with file, field and cure."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, load_manifest, sha256_of

SCALES = {"box_scale": {"scale": 0.5, "zero_point": 0}, "class_scale": {"scale": 2.0, "zero_point": 3}}


def fields() -> dict:
    return {
        "name": "example",
        "class_names": ["ship", "tank"],
        "input_hw": [64, 96],
        "heads": [
            {
                "stride": 8,
                "box_output": "box_8",
                "class_output": "class_8",
                "box_scale": {"scale": 0.25, "zero_point": -128},
                "class_scale": {"scale": 0.125, "zero_point": 127},
            },
            {"stride": 32, "box_output": "box_32", "class_output": "class_32", **SCALES},
        ],
        "precision": "int8",
        "files": {"rknn": {"name": "model.rknn", "sha256": hashlib.sha256(b"model").hexdigest()}},
        "accuracy": {"rknn_sim": {"map50": 0.5, "map50_95": None}},
    }


def head(stride: int, **change: object) -> dict:
    name = str(stride)[:8]
    return {"stride": stride, "box_output": f"box_{name}", "class_output": f"class_{name}", **SCALES, **change}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "model.rknn").write_bytes(b"model")
    Manifest.model_validate(fields()).save(tmp_path)
    return tmp_path


def rewrite(bundle: Path, **change: object) -> None:
    raw = json.loads((bundle / MANIFEST_NAME).read_text())
    (bundle / MANIFEST_NAME).write_text(json.dumps({**raw, **change}))


def test_round_trip(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert manifest == Manifest.model_validate(fields())
    assert manifest.heads[0].box_scale is not None
    assert manifest.heads[0].box_scale.zero_point == -128
    assert manifest.heads[1].class_scale is not None
    assert manifest.heads[1].class_scale.scale == 2.0
    assert manifest.format_version == FORMAT_VERSION
    assert sorted(path.name for path in bundle.iterdir()) == [MANIFEST_NAME, "model.rknn"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    scale=st.floats(1e-9, 1e6),
    zero_point=st.integers(-128, 127),
)
def test_any_names_and_scales_survive_the_file(names: list[str], scale: float, zero_point: int, bundle: Path) -> None:
    raw = fields()
    raw["class_names"] = names
    raw["heads"][0]["class_scale"] = {"scale": scale, "zero_point": zero_point}
    manifest = Manifest.model_validate(raw)
    manifest.save(bundle)
    assert load_manifest(bundle) == manifest


def test_it_cannot_be_changed_in_place(bundle: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_manifest(bundle).name = "other"  # type: ignore[misc]


def test_newer_formats_are_refused_with_the_cure(bundle: Path) -> None:
    # A newer format may hold fields that this version does not know: the version must be told, not the field.
    rewrite(bundle, format_version=FORMAT_VERSION + 1, something_new=1)
    with pytest.raises(ValueError, match="update rsedge on this machine") as caught:
        load_manifest(bundle)
    assert "something_new" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": "1"}, "format_version must be a whole number"),
        ({"format_version": True}, "format_version must be a whole number"),
        ({"format_version": 0}, "format_version must be a whole number"),
        ({"class_names": []}, "class_names"),
        ({"class_names": ["ship", ""]}, "class_names: every class must have a name that is not blank"),
        ({"class_names": ["ship", " "]}, "class_names: every class must have a name that is not blank"),
        ({"class_names": ["ship", "tank", "ship"]}, "class_names: .* 'ship' comes twice"),
        ({"input_hw": [64, 100]}, "multiple of every stride, got stride 8"),
        ({"input_hw": [64, 0]}, r"input_hw\.1"),
        ({"heads": []}, "heads"),
        ({"heads": fields()["heads"][::-1]}, r"heads: strides must ascend, each once, got \[32, 8\]"),
        ({"heads": [head(8), head(8, box_output="b", class_output="c")]}, r"strides must ascend.*\[8, 8\]"),
        ({"heads": [head(8, class_output="box_8")]}, "heads: every output .* 'box_8' comes twice"),
        ({"heads": [head(8), head(16, class_output="class_8")]}, "heads: every output .* 'class_8' comes twice"),
        ({"heads": [head(8, box_output="")]}, r"heads\.0\.box_output"),
        ({"heads": [head(8), head(16, box_scale=None)]}, "int8 model need .* stride 16 lacks one"),
        ({"heads": [head(8, class_scale=None)]}, "int8 model need .* stride 8 lacks one"),
        ({"heads": [head(8, box_scale={"scale": math.inf, "zero_point": 0})]}, "box_scale.scale: .*finite.*got inf"),
        ({"reg_max": 65}, "reg_max.*64, got 65"),
        ({"reg_max": 1}, "reg_max"),
        ({"std": [1, 0, 1]}, r"std\.1: .*greater than 0, got 0"),
        ({"std": [1, 1, -2]}, r"std\.2: .*greater than 0, got -2"),
        ({"std": [math.inf, 1, 1]}, r"std\.0: .*finite"),
        ({"mean": [0, math.nan, 0]}, r"mean\.1: .*finite.*got nan"),
        ({"accuracy": {"onnx": {"map50": math.nan}}}, r"accuracy\.onnx\.map50: .*finite"),
        ({"files": {}}, "files: .*at least 1"),
        ({"precision": "int4"}, "precision.*'int4'"),
        ({"channel_order": "brg"}, "channel_order.*'brg'"),
        ({"files": {"rknn": {"name": "../model.rknn", "sha256": "0" * 64}}}, r"files\.rknn\.name"),
        ({"files": {"rknn": {"name": "model.rknn", "sha256": "short"}}}, r"files\.rknn\.sha256"),
        ({"heads": [head(8, box_scale={"scale": 0, "zero_point": 0})]}, r"heads\.0\.box_scale\.scale"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_wrong_fields_are_named(change: dict, message: str, bundle: Path) -> None:
    rewrite(bundle, **change)
    with pytest.raises(ValueError, match=message) as caught:
        load_manifest(bundle)
    text = str(caught.value)
    assert text.startswith(str(bundle / MANIFEST_NAME))
    assert text.endswith("export the bundle again")
    assert "\n" not in text


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"9" * 5000, DEEP, b'{"a":' + DEEP + b"}"],
    ids=["empty", "open", "list", "not UTF-8", "null", "endless integer", "deep list", "deep object"],
)
def test_damaged_json(content: bytes, bundle: Path) -> None:
    (bundle / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ValueError, match="export the bundle again") as caught:
        load_manifest(bundle)
    assert str(caught.value).startswith(str(bundle / MANIFEST_NAME))


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 10**4000},
        {"format_version": "x" * 5000},
        {"format_version": [["x" * 500] * 500] * 50},
        {"name": ["x" * 500] * 500},
        {"class_names": ["x" * 5000] * 2},
        {"pad_value": 10**4000},
        {"precision": "x\n" * 5000},
        {"x\n" * 5000: 1},
        {"input_hw": [10**4000, 10**4000 + 1]},
        {"heads": [head(10**4000)]},
        {"heads": [head(10**4000 + 1 - i) for i in range(2)]},
        {"heads": [head(8, box_output="x" * 5000, class_output="x" * 5000)]},
        {"heads": [head(8, box_scale={"scale": 10**400, "zero_point": 0})]},
        {"heads": [head(8)], "class_names": ["x" * 500 + str(i) for i in range(500)], "input_hw": [9, 9]},
    ],
)
def test_messages_stay_short_and_in_one_line(change: dict, bundle: Path) -> None:
    rewrite(bundle, **change)
    with pytest.raises(ValueError, match=r"export the bundle again|update rsedge") as caught:
        load_manifest(bundle)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) - len(str(bundle / MANIFEST_NAME)) < 320


def test_scales_are_needed_for_int8_only(bundle: Path) -> None:
    rewrite(bundle, precision="fp16", heads=[head(8, box_scale=None, class_scale=None)])
    assert load_manifest(bundle).heads[0].box_scale is None


def test_nan_is_not_written(bundle: Path) -> None:
    before = (bundle / MANIFEST_NAME).read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        load_manifest(bundle).model_copy(update={"accuracy": {"onnx": {"map50": math.nan}}}).save(bundle)
    assert (bundle / MANIFEST_NAME).read_bytes() == before


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        load_manifest(tmp_path)


def test_changed_and_missing_files_are_found(bundle: Path) -> None:
    (bundle / "model.rknn").write_bytes(b"modem")
    with pytest.raises(ValueError, match=r"model\.rknn is damaged or was changed"):
        load_manifest(bundle)
    assert load_manifest(bundle, check_hashes=False).name == "example"
    (bundle / "model.rknn").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.rknn is missing"):
        load_manifest(bundle)


def test_a_failed_save_keeps_the_old_manifest(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / MANIFEST_NAME).read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    manifest = load_manifest(bundle)
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        manifest.save(bundle)
    assert (bundle / MANIFEST_NAME).read_bytes() == before


def test_hash_of_a_file_larger_than_one_block(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "big").write_bytes(data)
    assert sha256_of(tmp_path / "big") == hashlib.sha256(data).hexdigest()
