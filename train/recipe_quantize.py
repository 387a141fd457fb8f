"""The recipe's sections about quantisation-aware training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quantize.numerics import DEPLOYED_BITS
from quantize.schedule import Rung, ladder

from .recipe_section import NotNegative, Positive, Section, Share

Bits = Annotated[list[int], Field(min_length=1)]


class Tuning(Section):
    """Teacher fine-tuning through a pseudo low-precision student (two levels).

    every: steps between two updates of the teacher; 0: none. order: "first" (finite difference) or "second" (exact,
    much memory). rate: of the teacher. inner_rate: of the pseudo student's step. anchor: weight of the teacher's own
    loss. query_share: part of the train split that only tunes the teacher. parts: which of its layers move, by the
    beginning of their names; empty: neck and head.
    """

    every: Annotated[int, Field(ge=0)] = 0
    order: Literal["first", "second"] = "first"
    rate: Positive = 1e-4
    inner_rate: Positive = 1e-3
    anchor: NotNegative = 0.1
    query_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    parts: list[str] = []


class Quantize(Section):
    """How the network gets its integers.

    method: "toolkit" leaves it to the vendor's calibration; "calibrate" observes ranges in torch, without training;
    "train" is quantisation-aware training; "none" stays in float. checkpoint: a finished float one to start from;
    empty: the same command trains it. weights, activations: bits, rung by rung; a single width holds for all rungs.
    shares: of the epochs, by rung; empty: equal. early: step down before a rung is over once its loss has converged.
    observer: where ranges come from; observe_batches: how many batches it sees before ranges are learnt. learn: LSQ;
    false keeps observing. float16: layers left in floating point. losses: distillation from `teacher`, gains as in
    [distill]; empty: none. teacher: "float" is the network itself in full precision, "teacher" that of [teacher].
    """

    method: Literal["toolkit", "calibrate", "train", "none"] = "toolkit"
    checkpoint: str = ""
    weights: Bits = [16, 12, 10, DEPLOYED_BITS]
    activations: Bits = [16, 12, 10, DEPLOYED_BITS]
    shares: list[float] = []
    early: bool = False
    epochs: Annotated[int, Field(ge=1)] = 20
    learning_rate: Positive = 1e-4
    warmup_epochs: NotNegative = 0.5
    mosaic: Share = 0.0
    observer: Literal["min_max", "moving_average", "percentile"] = "moving_average"
    observe_batches: Annotated[int, Field(ge=1)] = 16
    learn: bool = True
    float16: list[str] = []
    losses: list[str] = []
    teacher: Literal["float", "teacher"] = "float"
    tuning: Tuning = Tuning()

    @model_validator(mode="after")
    def _consistent(self) -> Quantize:
        try:
            self.rungs()
        except ValueError as error:
            raise ValueError(f"quantize: {error}") from error
        if self.tuning.every and not self.losses:
            raise ValueError(
                "quantize.tuning.every tunes a teacher, then quantize.losses must name what it teaches; name one, or "
                "set quantize.tuning.every to 0"
            )
        if self.tuning.every and not self.learn:
            raise ValueError("quantize.tuning needs learnt ranges, quantize.learn is false; set it to true")
        return self

    def rungs(self) -> list[Rung]:
        """Return the ladder. Raises ValueError where it goes up, or does not fit the epochs."""
        # Calibration trains nothing: it needs only the last rung.
        epochs = self.epochs if self.method == "train" else max(len(self.weights), len(self.activations))
        return ladder(self.weights, self.activations, epochs, self.shares or None)

    @property
    def learns(self) -> bool:
        """Whether fake-quantisers come in: ranges observed or trained in torch."""
        return self.method in ("calibrate", "train")

    @property
    def deployable(self) -> bool:
        """Whether the last rung is what the NPU runs."""
        last = self.rungs()[-1]
        return last.weights == last.activations == DEPLOYED_BITS

    def check_deployable(self) -> None:
        """Raise ValueError where the ladder does not end at what the NPU runs; before any training."""
        last = self.rungs()[-1]
        if not self.deployable:
            raise ValueError(
                f"quantize: the ladder ends at {last.weights} bits for weights and {last.activations} for activations, "
                f"the RK3588 runs {DEPLOYED_BITS} and {DEPLOYED_BITS}; end it there, or set export.enabled to false: "
                "fewer bits are research in torch"
            )
