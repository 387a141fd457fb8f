"""Growing a network keeps its function and lets the copies part."""

import pytest
import torch

from train.grow import grow, size_of
from train.model import Yolov8


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = Yolov8("n", 3)
    model.train()
    with torch.no_grad():
        for _ in range(2):  # BatchNorm statistics that are not 0 and 1
            model(torch.rand(2, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize("size", ["s", "m"])
def test_the_larger_network_is_the_same_function(small, size):
    large = grow(small, size)
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        for a, b in zip(small(x), large(x), strict=True):
            assert torch.allclose(a, b, atol=2e-4), float((a - b).abs().max())
    assert size_of(large.state_dict()) == size


def test_copies_do_not_stay_copies(small):
    """Channels 0 and 1 of the first layer are the same to the bit, and must be told apart by their gradients."""
    large = grow(small, "s").train()
    rows = large.model[0].conv.weight
    assert torch.equal(rows[0], rows[1])
    sum(h.square().mean() for h in large(torch.rand(2, 3, 64, 64))).backward()
    first, second = rows.grad[0].flatten(), rows.grad[1].flatten()
    # Neither equal nor a multiple of each other: Adam would not part those.
    assert float(torch.cosine_similarity(first, second, dim=0)) < 0.999


def test_only_larger_sizes(small):
    with pytest.raises(ValueError, match=r"YOLOv8n can start a larger network only, got size 'n'"):
        grow(small, "n")


def test_size_of_something_else():
    assert size_of({"model.0.conv.weight": torch.zeros(17, 3, 3, 3)}) is None
    assert size_of({}) is None
