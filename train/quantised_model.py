"""A YOLOv8 with fake-quantisers in it: called like the plain one, kept in checkpoints, rebuilt from them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from quantize.insert import FakeQuantised, Settings, insert

from .model import Yolov8


class QuantisedYolov8(nn.Module):
    """YOLOv8 in the NPU's arithmetic.

    network: the traced graph; its parameters keep the names of the plain network, below `network.graph.`.
    """

    def __init__(self, model: Yolov8, settings: Settings) -> None:
        super().__init__()
        self.size, self.class_count = model.size, model.class_count
        self.network: FakeQuantised = insert(model, settings, method="maps_and_heads")
        self.folded = False

    def maps_and_heads(self, x: Tensor) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Return the neck's maps by stride and the six raw heads of images (b, 3, h, w) float, RGB 0 to 1."""
        maps, heads = self.network(x)
        return maps, heads

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """Return the neck's maps by stride, on their grids."""
        return self.maps_and_heads(x)[0]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images to six raw heads, as the plain network does."""
        return self.maps_and_heads(x)[1]

    def fold(self) -> None:
        """Take the BatchNorms into their convolutions."""
        self.network.fold_batch_norm()
        self.folded = True

    def describe(self) -> dict[str, Any]:
        """Return what `rebuild` needs besides the state dict."""
        weights = next(iter(self.network.weight_quantisers().values()))
        activations = list(self.network.activation_quantisers().values())
        settings = self.network.settings
        return {
            "weights": weights.grid.bits,
            "activations": activations[0].grid.bits,
            "observer": settings.observer,
            "float16": list(settings.float16),
            "folded": self.folded,
            "learnt": activations[0].learnt,
        }

    def shape(self, described: dict[str, Any]) -> None:
        """Bring the structure to what `describe` told; values come from a state dict."""
        if described["folded"] and not self.folded:
            self.fold()
        self.network.set_bits(described["weights"], described["activations"])
        if described["learnt"]:
            for quantiser in self.network.quantisers().values():
                quantiser.learn()


def rebuild(content: dict[str, Any], origin: str) -> QuantisedYolov8:
    """Return the network of a quantised checkpoint in eval mode, ranges frozen. Raises ValueError for another one."""
    described = content["quantised"]
    settings = Settings(
        described["weights"], described["activations"], described["observer"], tuple(described["float16"])
    )
    model = QuantisedYolov8(Yolov8(content["size"], len(content["class_names"])), settings)
    model.shape(described)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise ValueError(f"{origin}: damaged, its weights do not fit ({str(error).splitlines()[0]})") from error
    model.network.freeze()
    return model.eval()
