"""The C interface: layouts as a C compiler has them, every layout of memory to the same heads, every failure told."""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.backends import rknn_abi as abi
from deploy.backends.rknn_capi import TRANSFERS, RknnCapiBackend
from deploy.backends.transfer_check import transfers_agree
from deploy.context import ContextLostError
from deploy.head_layout import HeadLayout
from deploy.manifest import TensorScale
from deploy.postprocess import PostProcessor
from deploy.told_errors import told_in_one_line
from tests.deploy import fake_npu as npu

STRUCTS = {
    "rknn_input_output_num": abi.InputOutputNum,
    "rknn_tensor_attr": abi.TensorAttr,
    "rknn_tensor_mem": abi.TensorMem,
    "rknn_input": abi.Input,
    "rknn_output": abi.Output,
    "rknn_sdk_version": abi.SdkVersion,
    "rknn_perf_run": abi.PerfRun,
}
CONSTANTS = {
    "RKNN_QUERY_IN_OUT_NUM": abi.IN_OUT_NUM,
    "RKNN_QUERY_INPUT_ATTR": abi.INPUT_ATTR,
    "RKNN_QUERY_OUTPUT_ATTR": abi.OUTPUT_ATTR,
    "RKNN_QUERY_PERF_RUN": abi.PERF_RUN,
    "RKNN_QUERY_SDK_VERSION": abi.SDK_VERSION,
    "RKNN_QUERY_NATIVE_INPUT_ATTR": abi.NATIVE_INPUT_ATTR,
    "RKNN_QUERY_NATIVE_OUTPUT_ATTR": abi.NATIVE_OUTPUT_ATTR,
    "RKNN_TENSOR_FLOAT32": abi.FLOAT32,
    "RKNN_TENSOR_FLOAT16": abi.FLOAT16,
    "RKNN_TENSOR_INT8": abi.INT8,
    "RKNN_TENSOR_UINT8": abi.UINT8,
    "RKNN_TENSOR_NCHW": abi.NCHW,
    "RKNN_TENSOR_NHWC": abi.NHWC,
    "RKNN_TENSOR_NC1HWC2": abi.NC1HWC2,
    "RKNN_TENSOR_UNDEFINED": abi.UNDEFINED,
    "RKNN_TENSOR_QNT_NONE": abi.QNT_NONE,
    "RKNN_TENSOR_QNT_DFP": abi.QNT_DFP,
    "RKNN_TENSOR_QNT_AFFINE_ASYMMETRIC": abi.QNT_AFFINE,
    "RKNN_MEMORY_SYNC_TO_DEVICE": abi.SYNC_TO_DEVICE,
    "RKNN_MEMORY_SYNC_FROM_DEVICE": abi.SYNC_FROM_DEVICE,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npu.compile_library(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def control(library: Path):
    control = npu.Control(library)
    yield control
    assert control.left() == (0, 0, 0, 0)  # contexts, memories, overlapping calls, borders written over


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return npu.write_model(tmp_path / "model.rknn", npu.outputs())


def opened(model: Path, library: Path, found=None, **change) -> RknnCapiBackend:
    manifest = npu.manifest_of(model, found or npu.outputs(), **change.pop("manifest", {}))
    return RknnCapiBackend(model, manifest, library=library, **change)


def same(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_structures_lie_as_a_c_compiler_lays_them(control: npu.Control) -> None:
    told, fields, values = control.layout().splitlines(), set(), {}
    for line in told:
        if match := re.fullmatch(r"(\w+)\.(\w+) (\d+) (\d+)", line):
            field = getattr(STRUCTS[match[1]], match[2])
            assert (field.offset, field.size) == (int(match[3]), int(match[4])), line
            fields.add((match[1], match[2]))
        elif match := re.fullmatch(r"(\w+) = (\d+)", line):
            values[match[1]] = int(match[2])
        else:
            name, size = line.split()
            kind = abi.Context if name == "rknn_context" else STRUCTS[name]
            assert ctypes.sizeof(kind) == int(size), line
    assert fields == {(name, field[0]) for name, kind in STRUCTS.items() for field in kind._fields_}
    assert values == CONSTANTS
    assert len(told) == len(fields) + len(values) + len(STRUCTS) + 1


LAYOUTS = {
    "as the board logs it": ({}, npu.HW[1]),
    "width padded": ({"w_stride": 16, "native_w_stride": 16}, npu.HW[1] + 32),
    "channels padded to 32 as on the board": ({"more_blocks": 1}, 0),
    "bytes behind": ({"extra": 1000}, npu.HW[1]),
    "eight lanes, rows padded": ({"lanes": 8, "more_rows": 2, "native_w_stride": 13, "extra": 5}, npu.HW[1] + 4),
    "NHWC": ({"fmt": "NHWC", "w_stride": 14}, npu.HW[1]),
}


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_memory_gives_the_same_heads(
    layout: str, transfer: str, library: Path, control: npu.Control, tmp_path: Path
) -> None:
    change, stride = LAYOUTS[layout]
    found = npu.outputs(**change)
    model = npu.write_model(tmp_path / "model.rknn", found, w_stride=stride)
    if transfer == "copied" and layout == "NHWC":
        with pytest.raises(ValueError, match=r"outputs must not be NHWC for transfer 'copied'.*use transfer 'nchw'"):
            opened(model, library, found, transfer=transfer)
        return
    backend = opened(model, library, found, transfer=transfer)
    for seed in range(2):
        batch = npu.images(1 + seed, seed)
        same(backend.infer(batch), npu.expected(batch, found))
    backend.close()


def test_calls_are_the_ones_that_the_header_asks_for(library: Path, control: npu.Control, model: Path) -> None:
    backend = opened(model, library, core=2, transfer="nchw")
    assert control.calls[:2] == [f"rknn_init size={model.stat().st_size} flag=0 extend=0", "rknn_set_core_mask 4"]
    bound = [line for line in control.calls if line.startswith("rknn_set_io_mem")]
    assert bound[0] == f"rknn_set_io_mem images type={abi.UINT8} fmt={abi.NHWC} pass_through=0"
    assert bound[1] == f"rknn_set_io_mem box_8 type={abi.INT8} fmt={abi.NCHW} pass_through=0"
    assert len(bound) == 7
    before = len(control.calls)
    backend.infer(npu.images(2))
    one = ["rknn_mem_sync to", "rknn_run ", *["rknn_mem_sync from"] * 6]
    assert control.calls[before:] == [*one, *one]
    assert backend.npu_us() == 7912
    assert (backend.runtime_version, backend.driver_version) == ("2.5.0 (fake)", "0.9.8")
    assert backend.batch_size == 1
    assert backend.name == "rknn-capi"
    before = len(control.calls)
    backend.close()
    backend.close()
    assert [line.split()[0] for line in control.calls[before:]] == ["rknn_destroy_mem"] * 7 + ["rknn_destroy"]


def test_data_moves_by_default_as_the_vendors_programs_do_it(library: Path, control: npu.Control, tmp_path) -> None:
    for kind, precision, formats in (("int8", "int8", {abi.NC1HWC2}), ("float16", "fp16", set())):
        found = npu.outputs(type=kind)
        backend = opened(npu.write_model(tmp_path / kind, found), library, found, manifest={"precision": precision})
        bound = [line for line in control.calls if line.startswith("rknn_set_io_mem") and "images" not in line]
        assert {int(line.split("fmt=")[1].split()[0]) for line in bound} == formats
        assert len(bound) == 6 * len(formats)
        control.reset()
        backend.infer(npu.images(1))
        assert control.count("rknn_outputs_get") == (kind == "float16")
        backend.close()
        control.reset()


@pytest.mark.parametrize(("core", "mask"), [(None, None), (0, 1), (1, 2), (2, 4)])
def test_cores_become_masks(core, mask, library: Path, control: npu.Control, model: Path) -> None:
    opened(model, library, core=core).close()
    assert [line for line in control.calls if "core_mask" in line] == ([f"rknn_set_core_mask {mask}"] if mask else [])


def test_heads_are_the_callers_own(library: Path, control: npu.Control, model: Path) -> None:
    backend, batch = opened(model, library), npu.images(2)
    first = backend.infer(batch[:1])
    kept = [head.copy() for head in first]
    backend.infer(batch[1:])
    same(first, kept)
    backend.close()  # the stand-in overwrites what it frees
    same(first, kept)


def test_outputs_are_told_apart_by_name(library: Path, control: npu.Control, tmp_path: Path) -> None:
    found = npu.outputs()
    shuffled = [found[i] for i in (5, 0, 3, 2, 1, 4)]
    model = npu.write_model(tmp_path / "model.rknn", shuffled)
    for transfer in TRANSFERS:
        backend, batch = opened(model, library, found, transfer=transfer), npu.images(1)
        by_name = dict(zip([o.name for o in shuffled], npu.expected(batch, shuffled), strict=True))
        same(backend.infer(batch), [by_name[output.name] for output in found])
        backend.close()


def test_channel_order_of_the_network_comes_from_the_manifest(library: Path, control: npu.Control, model: Path) -> None:
    batch = npu.images(2)
    for transfer in TRANSFERS:
        backend = opened(model, library, manifest={"channel_order": "bgr"}, transfer=transfer)
        same(backend.infer(batch), npu.expected(batch[..., ::-1], npu.outputs()))
        backend.close()


@pytest.mark.parametrize("transfer", ["nchw", "copied"])
def test_float16_models_answer_in_float32(transfer, library: Path, control: npu.Control, tmp_path: Path) -> None:
    found = npu.outputs(type="float16", w_stride=0 if transfer == "copied" else 16)
    model = npu.write_model(tmp_path / "model.rknn", found)
    backend, batch = opened(model, library, found, manifest={"precision": "fp16"}, transfer=transfer), npu.images(2)
    same(backend.infer(batch), npu.real(npu.expected(batch, found), found))
    backend.close()


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_outputs_that_nobody_reads_are_passed_over(transfer, library: Path, control: npu.Control, tmp_path) -> None:
    # As the nine outputs of the vendor's zoo: box, class, sum of the scores, per stride.
    sums = [npu.Output(f"sum_{s}", (npu.HW[0] // s, npu.HW[1] // s), 1, 0.5, 3) for s in npu.STRIDES]
    found = npu.outputs()
    nine = [o for level in range(3) for o in (*found[2 * level : 2 * level + 2], sums[level])]
    model = npu.write_model(tmp_path / "model.rknn", nine)
    names = [output.name for output in nine]
    backend, batch = opened(model, library, manifest={"outputs": names}, transfer=transfer), npu.images(2)
    by_name = dict(zip(names, npu.expected(batch, nine), strict=True))
    same(backend.infer(batch), [by_name[output.name] for output in found])
    backend.close()
    with pytest.raises(ValueError, match="outputs of the model must be"):
        opened(model, library, transfer=transfer)


def test_int8_models_of_others_without_scales_answer_in_float32(library, control: npu.Control, model: Path) -> None:
    manifest, batch = npu.manifest_of(model, npu.outputs()), npu.images(2)
    bare = [head.model_copy(update={"box_scale": None, "class_scale": None}) for head in manifest.heads]
    for transfer in (None, "nchw"):
        backend = RknnCapiBackend(
            model, manifest.model_copy(update={"heads": bare}), library=library, transfer=transfer
        )
        same(backend.infer(batch), npu.real(npu.expected(batch, npu.outputs()), npu.outputs()))
        backend.close()
    assert transfers_agree(model, manifest.model_copy(update={"heads": bare}), library=library)


def test_one_decoded_output_with_three_dimensions(library: Path, control: npu.Control, tmp_path: Path) -> None:
    decoded = npu.Output("output0", (1, 12), 4 + npu.CLASSES, 0.25, -7, type="float16", fmt="FLAT")
    model = npu.write_model(tmp_path / "model.rknn", [decoded])
    change = {"heads": [], "decoded": {"name": "output0", "boxes": 12}, "precision": "fp16"}
    backend, batch = opened(model, library, manifest=change), npu.images(2)
    (want,) = npu.real(npu.expected(batch, [decoded]), [decoded])
    same(backend.infer(batch), [want[:, :, 0]])
    backend.close()
    with pytest.raises(ValueError, match="must have four dimensions to be shared; use transfer 'copied'"):
        opened(model, library, manifest=change, transfer="nchw")


def test_int8_heads_are_what_post_processing_takes(library: Path, control: npu.Control, model: Path) -> None:
    found, batch = npu.outputs(), npu.images(1)
    backend = opened(model, library)
    # Without suppression, whose choice among boxes of equal scores hangs on the last bit.
    layout = HeadLayout.from_manifest(npu.manifest_of(model, found))
    decode = PostProcessor(layout, score_threshold=0.9, iou_threshold=1.0)
    got = decode(backend.infer(batch))[0]
    want = decode(npu.real(npu.expected(batch, found), found))[0]
    backend.close()
    assert len(got.score) == len(want.score) > 50
    np.testing.assert_array_equal(np.sort(got.class_id), np.sort(want.class_id))
    np.testing.assert_allclose(got.score, want.score, rtol=1e-5)
    np.testing.assert_allclose(np.sort(got.xyxy, axis=0), np.sort(want.xyxy, axis=0), rtol=0, atol=1e-3)


def test_ways_to_move_data_agree_and_a_wrong_one_is_noticed(library: Path, control, model: Path, monkeypatch) -> None:
    manifest = npu.manifest_of(model, npu.outputs())
    assert transfers_agree(model, manifest, library=library)
    assert control.count("rknn_init") == len(TRANSFERS)
    monkeypatch.setattr(RknnCapiBackend, "_run_copied", lambda self, image, heads: [head.fill(0) for head in heads])
    assert not transfers_agree(model, manifest, library=library)


def test_duplicates_share_the_model_and_nothing_else(library: Path, control: npu.Control, model: Path) -> None:
    first = opened(model, library)
    second = first.duplicate(core=1)
    assert (control.count("rknn_init"), control.count("rknn_dup_context")) == (1, 1)
    batch = npu.images(2)
    heads = first.infer(batch[:1])
    same(second.infer(batch[1:]), npu.expected(batch[1:], npu.outputs()))
    same(heads, npu.expected(batch[:1], npu.outputs()))
    second.close()
    same(first.infer(batch), npu.expected(batch, npu.outputs()))
    first.close()
    with pytest.raises(ValueError, match="was closed"):
        first.duplicate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.5}, r"output box_8 must have scale 0\.5 and zero point -50 by the manifest, got 0\.07 and -50"),
        ({"zero_point": -49}, "must have scale 0.07 and zero point -49 by the manifest, got 0.07 and -50"),
    ],
)
def test_other_scales_than_the_manifests_are_refused(change, message, library: Path, control, model: Path) -> None:
    manifest = npu.manifest_of(model, npu.outputs())
    scale = TensorScale.model_validate({**manifest.heads[0].box_scale.model_dump(), **change})  # type: ignore[union-attr]
    head = manifest.heads[0].model_copy(update={"box_scale": scale})
    changed = manifest.model_copy(update={"heads": [head, *manifest.heads[1:]]})
    with pytest.raises(ValueError, match=message) as caught:
        RknnCapiBackend(model, changed, library=library)
    assert "copy the whole bundle again" in str(caught.value)


def test_scales_that_went_through_text_are_the_same(library: Path, control: npu.Control, model: Path) -> None:
    rounded = [npu.Output(o.name, o.hw, o.channels, float(f"{o.scale:.6g}"), o.zero_point) for o in npu.outputs()]
    opened(model, library, rounded).close()


@pytest.mark.parametrize(
    ("write", "change", "message"),
    [
        (
            lambda p: npu.write_model(p, npu.outputs(), hw=(96, 64)),
            {},
            r"input must be one NHWC tensor \(1, 64, 96, 3\)",
        ),
        (
            lambda p: npu.write_model(p, npu.outputs()),
            {"reg_max": 8},
            r"outputs of the model must be \[\(1, 32, 8, 12\)",
        ),
        (lambda p: npu.write_model(p, npu.outputs()[:4]), {}, "outputs of the model must be"),
        (lambda p: npu.write_model(p, npu.outputs(channels=3)), {}, "outputs of the model must be"),
        (
            lambda p: npu.write_model(p, npu.outputs(type="float16")),
            {},
            "must be int8 with a scale and zero point, got",
        ),
        (
            lambda p: npu.write_model(p, npu.outputs(), w_stride=1),
            {},
            "w_stride must be 0 or at least the width, got 1",
        ),
        (lambda p: npu.write_model(p, npu.outputs(native_w_stride=1)), {}, r"cannot hold \(16, 8, 12\); use transfer"),
    ],
)
def test_models_that_are_not_the_manifests_are_refused(write, change, message, library, control, tmp_path) -> None:
    model = write(tmp_path / "model.rknn")
    with pytest.raises(ValueError, match=message) as caught:
        opened(model, library, manifest=change)
    assert str(model) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("core", "mask"), [((0,), 1), ((0, 1), 3), ((0, 1, 2), 7)])
def test_cores_that_share_each_image(core, mask, library: Path, control: npu.Control, model: Path) -> None:
    """The masks of rknn_api.h: RKNN_NPU_CORE_0 is 1, _0_1 is 3, _0_1_2 is 7."""
    backend = opened(model, library, core=core)
    assert f"rknn_set_core_mask {mask}" in control.calls
    backend.close()


def test_cores_that_no_mask_joins(library: Path, control: npu.Control, model: Path) -> None:
    for core in ((1, 2), (0, 2), (2, 1, 0), ()):
        with pytest.raises(ValueError, match=r"cores that share each image are \(0, 1\) or \(0, 1, 2\)"):
            opened(model, library, core=core)


def test_an_output_whose_rows_are_too_short_is_refused(library: Path, control: npu.Control, tmp_path: Path) -> None:
    model = npu.write_model(tmp_path / "model.rknn", npu.outputs(w_stride=1))
    with pytest.raises(ValueError, match="w_stride must be 0 or at least the width, got 1 for box_8 int8 NCHW"):
        opened(model, library, transfer="nchw")


def test_wrong_arguments(library: Path, control: npu.Control, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="core must be 0, 1 or 2, or None for any, got 3"):
        opened(model, library, core=3)
    with pytest.raises(ValueError, match="transfer must be one of nc1hwc2, nchw, copied, got 'dma'"):
        opened(model, library, transfer="dma")
    with pytest.raises(ValueError, match="'nc1hwc2' needs an int8 model with scales, got fp16"):
        opened(model, library, transfer="nc1hwc2", manifest={"precision": "fp16"})
    with pytest.raises(FileNotFoundError, match="missing"):
        RknnCapiBackend(tmp_path / "none.rknn", npu.manifest_of(model, npu.outputs()), library=library)
    backend = opened(model, library)
    for batch in (np.zeros((1, 96, 64, 3), np.uint8), np.zeros((1, *npu.HW, 3), np.float32)):
        with pytest.raises(ValueError, match=r"batch must be uint8 with shape \(b, 64, 96, 3\)"):
            backend.infer(batch)
    backend.close()
    with pytest.raises(ValueError, match="the rknn-capi backend was closed"):
        backend.infer(npu.images(1))


# A call while opening, and after how many of its kind it fails.
OPENING = [
    ("rknn_init", 0),
    ("rknn_set_core_mask", 0),
    *((call, after) for call in ("rknn_query", "rknn_create_mem", "rknn_set_io_mem") for after in (0, 1, 6)),
]
RUNNING = ["rknn_mem_sync", "rknn_run"]
COPYING = ["rknn_inputs_set", "rknn_run", "rknn_outputs_get", "rknn_outputs_release"]


@pytest.mark.parametrize(("call", "after"), OPENING)
def test_a_failure_while_opening_leaves_nothing_behind(call, after, library, control: npu.Control, model: Path) -> None:
    control.fail(call, -6, after)
    with pytest.raises(abi.RknnError) as caught:
        opened(model, library, core=0)
    code, name = (-4, "MALLOC_FAIL") if call == "rknn_create_mem" else (-6, "MODEL_INVALID")
    assert (caught.value.call, caught.value.code, caught.value.name) == (call, code, f"RKNN_ERR_{name}")
    told = told_in_one_line(caught.value)
    assert told is not None
    assert told.startswith(f"{model}: {call} failed with RKNN_ERR_{name} ({code}), ")
    assert "; " in told


@pytest.mark.parametrize("code", sorted(abi.ERRORS))
@pytest.mark.parametrize(("transfer", "call"), [*(("nchw", c) for c in RUNNING), *(("copied", c) for c in COPYING)])
def test_a_failure_while_running_is_told_and_the_context_closes(
    transfer, call, code, library, control: npu.Control, model: Path
) -> None:
    backend = opened(model, library, transfer=transfer)
    control.fail(call, code)
    with pytest.raises(abi.RknnError, match=rf"{call} failed with {abi.ERRORS[code][0]} \({code}\)") as caught:
        backend.infer(npu.images(1))
    lost = call in ("rknn_run", "rknn_outputs_get") and code in (-1, -2, -3, -7)
    assert isinstance(caught.value, ContextLostError) is lost
    backend.close()


def test_errors_travel_between_processes_and_codes_to_come_are_told() -> None:
    error = abi.RknnContextLostError("rknn_run", -2, "model.rknn")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert (str(twin), twin.code, twin.name) == (str(error), -2, "RKNN_ERR_TIMEOUT")
    assert "no code of the header (-99)" in str(abi.RknnError("rknn_run", -99))
    for code, (_, meaning, cure) in abi.ERRORS.items():
        assert str(abi.RknnError("f", code)).endswith(f"({code}), {meaning}; {cure}")


def test_garbage_is_no_model(library: Path, control: npu.Control, tmp_path: Path) -> None:
    good = npu.write_model(tmp_path / "good.rknn", npu.outputs())
    bad = tmp_path / "model.rknn"
    for content in (b"", bytes(range(256)) * 10):
        bad.write_bytes(content)
        with pytest.raises(abi.RknnError, match=r"RKNN_ERR_MODEL_INVALID.*export the bundle again"):
            RknnCapiBackend(bad, npu.manifest_of(good, npu.outputs()), library=library)


def test_libraries_that_are_none(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"none\.so cannot be loaded \(.*\); on the board copy"):
        opened(model, tmp_path / "none.so")
    (tmp_path / "text.so").write_text("no library " * 100)
    with pytest.raises(OSError, match=r"text\.so cannot be loaded \(.*invalid ELF header"):
        opened(model, tmp_path / "text.so")
    monkeypatch.setattr(abi, "LIBRARY", "librknnrt-of-no-board.so")
    with pytest.raises(OSError, match=r"librknnrt-of-no-board\.so cannot be loaded \(.*cannot open shared object"):
        abi.load_library()
    # One that is there and does not load says more than those that are not there.
    (tmp_path / "librknnrt-of-no-board.so").write_text("no library " * 100)
    monkeypatch.setattr(abi, "PLACES", ("/nowhere", str(tmp_path)))
    with pytest.raises(OSError, match=r"librknnrt-of-no-board\.so cannot be loaded \(.*invalid ELF header"):
        abi.load_library()


def test_the_library_is_found_where_boards_keep_it(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "PLACES", ("/nowhere", str(library.parent)))
    assert set(abi.PROTOTYPES) == {name for name in abi.PROTOTYPES if getattr(abi.load_library(), name)}


def test_a_library_that_is_too_old(tmp_path: Path, library: Path) -> None:
    source = tmp_path / "old.c"
    source.write_text("int rknn_init(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "old.so"), str(source)], check=True)
    with pytest.raises(OSError, match=r"old\.so has no rknn_dup_context: it is older than 2\.0"):
        abi.load_library(tmp_path / "old.so")


def test_another_thread_is_refused(library: Path, control: npu.Control, model: Path) -> None:
    backend, batch, errors = opened(model, library), npu.images(1), []

    def intrude() -> None:
        for call in (lambda: backend.infer(batch), backend.npu_us):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    # Whoever runs it first owns it: not the thread that opened it.
    owner = threading.Thread(target=lambda: errors.append(backend.infer(batch)[0].shape))
    owner.start()
    owner.join()
    assert errors == [(1, 16, 8, 12)]
    backend.close()
    # The owner's number may be given to a thread that comes later; two that live at once differ.
    hold = threading.Event()
    second = opened(model, library)
    keeper = threading.Thread(target=lambda: (second.infer(batch), hold.wait(5)))
    keeper.start()
    while control.count("rknn_run") < 2:
        time.sleep(0.001)
    backend, errors = second, []
    intruder = threading.Thread(target=intrude)
    intruder.start()
    intruder.join()
    hold.set()
    keeper.join()
    assert len(errors) == 2
    assert all("belongs to the thread that ran it first" in error and "per thread" in error for error in errors)
    assert control.count("rknn_run") == 2
    second.close()
    assert control.count("rknn_destroy") == 2


def test_closing_under_a_running_call_waits_for_nobody_and_frees_once(library, control: npu.Control, model) -> None:
    backend, batch = opened(model, library), npu.images(1)
    control.latency(200_000)
    heads: list = []
    runner = threading.Thread(target=lambda: heads.append(backend.infer(batch)))
    runner.start()
    while not control.count("rknn_run"):
        time.sleep(0.001)
    begin = time.perf_counter()
    backend.close()
    backend.close()
    assert time.perf_counter() - begin < 0.1
    assert control.count("rknn_destroy") == 0
    runner.join()
    same(heads[0], npu.expected(batch, npu.outputs()))
    assert control.count("rknn_destroy") == 1
    with pytest.raises(ValueError, match="was closed"):
        backend.infer(batch)


def test_six_contexts_in_six_threads(library: Path, control: npu.Control, model: Path) -> None:
    wrong: list[str] = []

    def work(number: int) -> None:
        backend = opened(model, library, core=number % 3)
        for seed in range(10 * number, 10 * number + 10):
            batch = npu.images(1, seed)
            heads = backend.infer(batch)
            if not all(map(np.array_equal, heads, npu.expected(batch, npu.outputs()))):
                wrong.append(f"{number}/{seed}")
        backend.close()

    control.latency(1000)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert control.count("rknn_run") == 60


PRINTS = """
import sys
from pathlib import Path
from deploy.backends.rknn_capi import RknnCapiBackend
from tests.deploy import fake_npu as npu
library, model = map(Path, sys.argv[1:])
npu.Control(library).chatter()
print("before")
backend = RknnCapiBackend(model, npu.manifest_of(model, npu.outputs()), library=library)
print("after", len(backend.infer(npu.images(1))))
backend.close()
"""


def test_the_vendors_lines_stay_out_of_standard_output(library: Path, model: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, str(library), str(model)],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "before\nafter 6\n"
    assert "a line of the vendor's" in done.stderr
