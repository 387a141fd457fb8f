"""The vendor's wrapper: -1, None and nonsense become errors with a cure, shapes are checked, garbage stays bounded."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from deploy.backends import rknn_lite
from deploy.backends.head_order import head_order
from deploy.backends.rknn_capi import RknnCapiBackend
from deploy.backends.rknn_lite import RknnLiteBackend
from deploy.context import ContextLostError
from deploy.told_errors import told_in_one_line
from tests.deploy import fake_npu as npu
from tests.deploy import fake_rknnlite


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> type[fake_rknnlite.RKNNLite]:
    return fake_rknnlite.install(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return npu.write_model(tmp_path / "model.rknn", npu.outputs())


def opened(model: Path, core: int | None = None, collect_every: int = 500, **change: object) -> RknnLiteBackend:
    return RknnLiteBackend(model, npu.manifest_of(model, npu.outputs(), **change), core, collect_every=collect_every)


def named(vendor, call: str) -> list[tuple]:
    return [entry for entry in vendor.calls if entry[0] == call]


def test_float32_heads_come_in_the_manifests_order(vendor, model: Path) -> None:
    found, batch = npu.outputs(), npu.images(3)
    backend = opened(model, core=1)
    assert (backend.name, backend.batch_size) == ("rknn-lite", 1)
    want = npu.real(npu.expected(batch, found), found)
    for got, head in zip(backend.infer(batch), want, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, head)
    assert vendor.calls == [
        ("__init__", False, None),
        ("load_rknn", str(model)),
        ("init_runtime", None, 2),  # the target stays None on a board
        *[("inference", (1, 64, 96, 3), "uint8", True)] * 3,
    ]
    backend.close()
    backend.close()
    assert len(named(vendor, "release")) == 1
    with pytest.raises(ValueError, match="the rknn-lite backend was closed"):
        backend.infer(batch)


def test_both_ways_to_the_npu_agree_bit_for_bit(vendor, model: Path, tmp_path: Path) -> None:
    found, batch = npu.outputs(), npu.images(2)
    manifest = npu.manifest_of(model, found)
    integers = RknnCapiBackend(model, manifest, library=npu.compile_library(tmp_path))
    floats = RknnLiteBackend(model, manifest)
    for one, other in zip(npu.real(integers.infer(batch), found), floats.infer(batch), strict=True):
        np.testing.assert_array_equal(one, other)
    integers.close()
    floats.close()


@pytest.mark.parametrize(("core", "mask"), [(None, 0), (0, 1), (1, 2), (2, 4)])
def test_cores_become_masks(core, mask, vendor, model: Path) -> None:
    opened(model, core).close()
    assert named(vendor, "init_runtime") == [("init_runtime", None, mask)]


def test_outputs_in_another_order_are_told_apart_by_shape(vendor, model: Path) -> None:
    vendor.change = staticmethod(lambda outputs: outputs[::-1])
    found, batch = npu.outputs(), npu.images(1)
    backend = opened(model)
    for _ in range(2):
        for got, want in zip(backend.infer(batch), npu.real(npu.expected(batch, found), found), strict=True):
            np.testing.assert_array_equal(got, want)
    backend.close()


def test_order_is_never_guessed(model: Path) -> None:
    manifest = npu.manifest_of(model, npu.outputs())
    # As many classes as box channels: shapes tell nothing any more, the order or the names have to.
    twins = manifest.model_copy(update={"class_names": [str(i) for i in range(4 * manifest.reg_max)]})
    shapes, names = twins.output_shapes, [output.name for output in npu.outputs()]
    assert head_order(shapes, twins) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="outputs of the model must be"):
        head_order(shapes[::-1], twins)
    assert head_order(shapes[::-1], twins, names[::-1]) == [5, 4, 3, 2, 1, 0]
    # More outputs than are read: by their names or their place in the file, never by shape.
    more = twins.model_copy(update={"outputs": ["sum", *names]})
    assert head_order([(1, 1, 8, 12), *shapes], more) == [1, 2, 3, 4, 5, 6]
    assert head_order([*shapes, (1, 1, 8, 12)], more, [*names, "sum"]) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"among 7 outputs by the manifest, got .*\(1, 1, 8, 12\)\]"):
        head_order([*shapes, (1, 1, 8, 12)], more)
    # Names that contradict the shapes.
    with pytest.raises(ValueError, match="outputs of the model must be"):
        head_order(manifest.output_shapes, manifest, names[::-1])
    with pytest.raises(ValueError, match="outputs of the model must be"):
        head_order([], manifest)


def test_channel_order_comes_from_the_manifest(vendor, model: Path) -> None:
    found, batch = npu.outputs(), npu.images(2)
    backend = opened(model, channel_order="bgr")
    for got, want in zip(backend.infer(batch), npu.real(npu.expected(batch[..., ::-1], found), found), strict=True):
        np.testing.assert_array_equal(got, want)
    assert all(entry[3] for entry in named(vendor, "inference"))  # the C code behind it reads rows one after another
    backend.close()


@pytest.mark.parametrize(
    "batch",
    [np.zeros((1, 96, 64, 3), np.uint8), np.zeros((1, *npu.HW, 3), np.float32), np.zeros((0, *npu.HW, 3), np.uint8)],
)
def test_the_wrapper_never_sees_a_wrong_batch(batch: np.ndarray, vendor, model: Path) -> None:
    backend = opened(model)
    with pytest.raises(ValueError, match=r"batch must be uint8 with shape \(b, 64, 96, 3\)"):
        backend.infer(batch)
    assert not named(vendor, "inference")
    backend.close()


@pytest.mark.parametrize(
    ("call", "answer", "message"),
    [
        ("load_rknn", -1, "load_rknn of the vendor's wrapper returned -1; its lines on standard error tell more"),
        ("init_runtime", -1, "init_runtime of the vendor's wrapper returned -1; .*`rsedge doctor`"),
        ("init_runtime", None, "init_runtime of the vendor's wrapper returned None"),
        (
            "init_runtime",
            AttributeError("'NoneType' object"),
            r"failed \(AttributeError: 'NoneType' object\); its lines",
        ),
        ("__init__", RuntimeError("no log file"), r"failed \(RuntimeError: no log file\)"),
    ],
)
def test_failures_while_opening(call, answer, message, vendor, model: Path) -> None:
    vendor.answers = {call: answer}
    with pytest.raises(OSError, match=message) as caught:
        opened(model)
    told = told_in_one_line(caught.value)
    assert told is not None
    assert told.startswith(str(model))
    # What was made is released, what was not is not.
    assert len(named(vendor, "release")) == (call != "__init__")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "inference of the vendor's wrapper gave no outputs; its lines on standard error tell more"),
        (RuntimeError("gone"), r"the vendor's wrapper failed \(RuntimeError: gone\)"),
    ],
)
def test_an_inference_without_an_answer_loses_the_context(answer, message, vendor, model: Path) -> None:
    backend = opened(model)
    vendor.answers = {"inference": answer}
    with pytest.raises(ContextLostError, match=message):
        backend.infer(npu.images(1))
    backend.close()
    assert len(named(vendor, "release")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outputs: outputs[:5], "outputs of the model must be"),
        (lambda outputs: [], "outputs of the model must be"),
        (lambda outputs: [*outputs, outputs[0]], "outputs of the model must be"),
        (lambda outputs: [output[:, :-1] for output in outputs], "outputs of the model must be"),
        (lambda outputs: [output[0] for output in outputs], "outputs of the model must be"),
        (lambda outputs: [output.astype(np.int8) for output in outputs], "outputs must be float32 of shapes"),
    ],
)
def test_outputs_that_do_not_fit_the_manifest(change, message, vendor, model: Path) -> None:
    vendor.change = staticmethod(change)
    backend = opened(model)
    with pytest.raises(ValueError, match=message) as caught:
        backend.infer(npu.images(1))
    assert "\n" not in str(caught.value)
    backend.close()


def test_outputs_that_nobody_reads_are_passed_over(vendor, model: Path) -> None:
    vendor.change = staticmethod(lambda outputs: [np.zeros((1, 2), np.float32), *outputs])
    found, batch = npu.outputs(), npu.images(1)
    backend = opened(model, outputs=["more", *(output.name for output in found)])
    for _ in range(2):
        for got, want in zip(backend.infer(batch), npu.real(npu.expected(batch, found), found), strict=True):
            np.testing.assert_array_equal(got, want)
    backend.close()


def test_outputs_that_change_under_way_are_noticed(vendor, model: Path) -> None:
    backend = opened(model)
    backend.infer(npu.images(1))
    for change in (lambda outputs: outputs[:5], lambda outputs: [*outputs[:4], *outputs[2:4]]):
        vendor.change = staticmethod(change)
        with pytest.raises(ValueError, match="outputs must be float32 of shapes"):
            backend.infer(npu.images(1))
    backend.close()


def test_garbage_stays_bounded(vendor, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, most = opened(model, collect_every=10), 0
    lazy = opened(model, collect_every=0)
    gc.collect()
    gc.disable()  # so that only the backend's own collections count
    try:
        before = fake_rknnlite.Cycle.alive
        for _ in range(35):
            backend.infer(npu.images(1))
            most = max(most, fake_rknnlite.Cycle.alive - before)
        assert 5 <= most <= 10
        gc.collect()
        for _ in range(35):
            lazy.infer(npu.images(1))
        assert fake_rknnlite.Cycle.alive - before == 35
    finally:
        gc.enable()
        gc.collect()
    backend.close()
    lazy.close()
    assert rknn_lite.COLLECT_EVERY * 42_000 < 25e6  # what the docstring promises


def test_another_thread_is_refused(vendor, model: Path) -> None:
    backend, errors = opened(model), []
    backend.infer(npu.images(1))

    def intrude() -> None:
        try:
            backend.infer(npu.images(1))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "a context of rknn-lite belongs to the thread that ran it first" in errors[0]
    assert len(named(vendor, "inference")) == 1
    backend.close()


def test_release_that_fails_closes_all_the_same(vendor, model: Path) -> None:
    backend = opened(model)
    vendor.answers = {"release": RuntimeError("gone")}
    backend.close()
    backend.close()
    assert len(named(vendor, "release")) == 1


def test_wrong_arguments_and_missing_things(vendor, model: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="core must be 0, 1 or 2"):
        opened(model, core=4)
    with pytest.raises(ValueError, match="collect_every must be 0"):
        opened(model, collect_every=-1)
    with pytest.raises(FileNotFoundError, match="missing"):
        RknnLiteBackend(tmp_path / "none.rknn", npu.manifest_of(model, npu.outputs()))
    assert vendor.calls == []
    monkeypatch.setitem(sys.modules, "rknnlite.api", None)
    with pytest.raises(OSError, match=r"cannot be imported .*pip install \"\.\[board\]\" in the clone"):
        opened(model)


def test_the_vendors_lines_stay_out_of_standard_output(vendor, model: Path, capfd) -> None:
    print("before")
    backend = opened(model)
    print("after")
    backend.close()
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert "librknnrt version" in err


def test_the_stand_in_has_the_wrappers_surface() -> None:
    api = pytest.importorskip("rknnlite.api", reason="the vendor's wrapper is for aarch64 only")
    for name, value in vars(fake_rknnlite.RKNNLite).items():
        if name.startswith("NPU_"):
            assert getattr(api.RKNNLite, name) == value
        elif callable(value) and not name.startswith("_answer") and name != "change":
            assert str(inspect.signature(getattr(api.RKNNLite, name))) == str(inspect.signature(value)), name
