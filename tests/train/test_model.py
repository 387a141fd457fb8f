"""The network against its published figures, and weights that come from elsewhere."""

import pytest
import torch

from train.checkpoint import load_weights, read_weights
from train.model import SCALES, Yolov8

PUBLISHED = {"n": 3_157_184, "s": 11_166_544, "m": 25_902_624, "l": 43_691_504, "x": 68_229_632}


@pytest.mark.parametrize("size", SCALES)
def test_parameter_counts_are_the_published_ones(size):
    with torch.device("meta"):
        model = Yolov8(size, 80)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[size]


def test_state_dict_has_the_customary_names():
    names = Yolov8("n", 80).state_dict()
    assert next(iter(names)) == "model.0.conv.weight"
    assert list(names)[-1] == "model.22.cv3.2.2.bias"
    for name, shape in {
        "model.2.m.0.cv1.conv.weight": (16, 16, 3, 3),
        "model.9.cv2.conv.weight": (256, 512, 1, 1),
        "model.22.cv2.0.2.weight": (64, 64, 1, 1),
        "model.22.cv3.1.0.bn.running_mean": (80,),
    }.items():
        assert tuple(names[name].shape) == shape


def test_heads_and_features_have_their_strides():
    model = Yolov8("n", 3).eval()
    x = torch.zeros(2, 3, 64, 96)
    maps = model.features(x)
    assert {s: tuple(m.shape) for s, m in maps.items()} == {8: (2, 64, 8, 12), 16: (2, 128, 4, 6), 32: (2, 256, 2, 3)}
    assert [tuple(h.shape) for h in model(x)] == [(2, c, 64 // s, 96 // s) for s in (8, 16, 32) for c in (64, 3)]


def test_a_fresh_model_sees_almost_nothing():
    heads = Yolov8("n", 10).eval()(torch.rand(1, 3, 64, 64))
    assert all(float(h.detach().sigmoid().max()) < 0.05 for h in heads[1::2])


def test_user_weights_load_with_dfl_and_nested(tmp_path):
    source = Yolov8("n", 4)
    weights = {**source.state_dict(), "model.22.dfl.conv.weight": torch.arange(16.0).view(1, 16, 1, 1)}
    torch.save({"model": {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}}, tmp_path / "w.pt")
    target = Yolov8("n", 4)
    assert load_weights(target, read_weights(tmp_path / "w.pt"), "w.pt") == []
    assert torch.allclose(target.model[0].conv.weight, source.model[0].conv.weight, atol=1e-3)


def test_safetensors_load(tmp_path):
    from safetensors.torch import save_file

    source = Yolov8("n", 4)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    target = Yolov8("n", 4)
    load_weights(target, read_weights(tmp_path / "w.safetensors"), "w")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_other_class_count_keeps_only_the_class_tower_fresh():
    source, target = Yolov8("n", 5), Yolov8("n", 10)
    with pytest.raises(ValueError, match=r"model\.22\.cv3\.0\.2\.bias is \(5,\), should be \(10,\)"):
        load_weights(target, source.state_dict(), "five.pt")
    fresh = load_weights(target, source.state_dict(), "five.pt", other_classes=True)
    assert fresh == sorted(f"model.22.cv3.{i}.2.{part}" for i in range(3) for part in ("bias", "weight"))
    assert torch.equal(source.model[22].cv2[0][0].conv.weight, target.model[22].cv2[0][0].conv.weight)


def test_another_size_names_the_tensors():
    with pytest.raises(
        ValueError,
        match=r"n with 4 classes; \d+ of another shape: model\.0\.bn\.bias is \(32,\), should be \(16,\)",
    ):
        load_weights(Yolov8("n", 4), Yolov8("s", 4).state_dict(), "s.pt", other_classes=True)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"model": Bomb()}))
    with pytest.raises(ValueError, match=r"bomb\.pt"):
        read_weights(tmp_path / "bomb.pt")
