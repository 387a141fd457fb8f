"""Published distillation losses that compare feature maps, and the table of all baselines by name.

Every class follows the contract of `train.teacher_student.DistillationLoss`: built from the channels of student and
teacher by stride, called with the outputs of both, it returns named scalars that are already multiplied by `gain`.
The student's maps pass the adapters first; F^S below means the adapted map, F^T the teacher's, both (b, c, h, w) of
one level. Convolutions may run under autocast, everything after them is float32. All are means over the images, so
that they do not grow with the batch, and sums over the levels. The losses on heads are in `train.baselines_heads`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .baselines_heads import Localisation, LogitDistillation, require_positive
from .distill import covered_spans
from .loss import Targets
from .teacher_student import Adapters, Outputs


class FitNets(nn.Module):
    """Regress the teacher's maps.

    Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets, arXiv:1412.6550, eq. 3:

        fitnets = sum_levels mean_(b,c,h,w) (F^T - F^S)^2

    Open in the paper: the hint layer (here the three maps that the head sees), the regressor (1x1 convolution), and
    hints as a first stage of training (here a term beside the detection loss, as detectors commonly do). The factor
    1/2 of the paper is left to the gain; the sum is a mean, so that it does not grow with resolution.
    """

    def __init__(self, student_channels: dict[int, int], teacher_channels: dict[int, int], *, gain: float) -> None:
        super().__init__()
        self.adapters = Adapters(student_channels, teacher_channels)
        self.gain = gain

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the scalar fitnets from the maps of each; shapes as in Outputs."""
        ours = self.adapters(student.maps)
        with torch.autocast(student.heads[0].device.type, enabled=False):
            total = sum_levels([(m - frozen(teacher.maps[s])).square().mean() for s, m in ours.items()])
            return {"fitnets": total * self.gain}


class ChannelWise(nn.Module):
    """Match where each channel looks: its map as a distribution over the cells.

    Shu, Liu, Gao, Yan, Shen: Channel-wise Knowledge Distillation for Dense Prediction, arXiv:2011.13256, eq. 2 to 4.
    With phi_c = softmax over the h w cells of F_c / T:

        cwd = sum_levels mean_b T^2 / c * sum_channels sum_cells phi^T log(phi^T / phi^S)

    Open in the paper: the temperature for detectors (default 1, as commonly used on pyramids), and the levels, which
    are summed.
    """

    def __init__(
        self,
        student_channels: dict[int, int],
        teacher_channels: dict[int, int],
        *,
        gain: float,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        require_positive("temperature", temperature)
        self.adapters = Adapters(student_channels, teacher_channels)
        self.gain, self.temperature = gain, temperature

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the scalar cwd from the maps of each; shapes as in Outputs."""
        ours = self.adapters(student.maps)
        t = self.temperature
        with torch.autocast(student.heads[0].device.type, enabled=False):
            levels = []
            for stride, m in ours.items():
                log_s = (m.flatten(2) / t).log_softmax(-1)
                log_t = (frozen(teacher.maps[stride]).flatten(2) / t).log_softmax(-1)
                levels.append((log_t.exp() * (log_t - log_s)).sum(-1).mean())
            return {"cwd": sum_levels(levels) * (self.gain * t * t)}


class MaskedGenerative(nn.Module):
    """Generate the teacher's whole map from the student's map with random cells struck out.

    Yang, Li, Shao, Shi, Yuan, Yuan: Masked Generative Distillation, arXiv:2205.01529, eq. 3 to 5. With M (b, 1, h, w)
    of 0 with probability `mask_ratio`, else 1, and G = 3x3 convolution, ReLU, 3x3 convolution of c channels:

        mgd = sum_levels mean_(b,c,h,w) (F^T - G(M F^S))^2

    The paper's lambda is `mask_ratio`: 0.65 for one-stage detectors. Open: the paper sums over cells and channels
    (its weight 2e-5 stands for that); here a mean. The mask comes from torch's generator of the device and so follows
    the trainer's seed. The map is generated anew: equal teacher and student do not give 0.
    """

    def __init__(
        self,
        student_channels: dict[int, int],
        teacher_channels: dict[int, int],
        *,
        gain: float,
        mask_ratio: float = 0.65,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must be at least 0 and below 1, got {mask_ratio}; the paper takes 0.65")
        self.adapters = Adapters(student_channels, teacher_channels)
        self.generators = nn.ModuleDict(
            {
                str(s): nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))
                for s, c in teacher_channels.items()
            }
        )
        self.gain, self.mask_ratio = gain, mask_ratio

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the scalar mgd from the maps of each; shapes as in Outputs. Draws from torch's generator."""
        generated = {}
        for stride, m in self.adapters(student.maps).items():
            b, _, h, w = m.shape
            keep = torch.rand((b, 1, h, w), device=m.device) >= self.mask_ratio
            generated[stride] = self.generators[str(stride)](m * keep)
        with torch.autocast(student.heads[0].device.type, enabled=False):
            levels = [(m.float() - frozen(teacher.maps[s])).square().mean() for s, m in generated.items()]
            return {"mgd": sum_levels(levels) * self.gain}


class FocalGlobal(nn.Module):
    """Match objects and background apart, weighted by size and attention, and the relation of cells to their image.

    Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan: Focal and Global Knowledge Distillation for Detectors (FGD),
    arXiv:2111.11837, eq. 2 to 14. Per level and image, all boxes scaled to the level, cells covered as in
    `train.distill`; S = 1 / (cells of the box), the smaller box where they overlap; N_bg: number of uncovered cells;
    A_sp = h w softmax over the cells of (mean_c |F| / T), A_ch = c softmax over the channels of (mean_cells |F| / T);
    R: the context block below, one for the student and one for the teacher, both learnt:

        fgd_foreground = alpha / c  sum_covered S A_sp^T A_ch^T (F^T - F^S)^2
        fgd_background = beta / c   sum_uncovered A_sp^T A_ch^T (F^T - F^S)^2 / N_bg
        fgd_attention  = gamma (mean_cells |A_sp^T - A_sp^S| + mean_c |A_ch^T - A_ch^S|)
        fgd_global     = delta mean_(c,h,w) (R_T(F^T) - R_S(F^S))^2

    Open: the paper sums over channels and cells, so its terms grow with resolution; here they are divided by the
    channels, attention and global also by the cells. The defaults are the paper's weights for anchor-free detectors
    (1.6e-3, 8e-4, 8e-4, 8e-6) times what was divided by, at 256 channels and 32 x 32 cells. The sum over objects
    stays, as in the paper: each weighs the same whatever its size. The paper's lambda is called delta here.
    An image without boxes is all background and has a foreground term of exactly 0.
    """

    def __init__(
        self,
        student_channels: dict[int, int],
        teacher_channels: dict[int, int],
        *,
        gain: float,
        temperature: float = 0.5,
        alpha: float = 0.4,
        beta: float = 0.2,
        gamma: float = 0.5,
        delta: float = 2.0,
    ) -> None:
        super().__init__()
        require_positive("temperature", temperature)
        self.adapters = Adapters(student_channels, teacher_channels)
        self.context_student = nn.ModuleDict({str(s): ContextBlock(c) for s, c in teacher_channels.items()})
        self.context_teacher = nn.ModuleDict({str(s): ContextBlock(c) for s, c in teacher_channels.items()})
        self.gain, self.temperature = gain, temperature
        self.weights = {"foreground": alpha, "background": beta, "attention": gamma, "global": delta}

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the scalars fgd_foreground, fgd_background, fgd_attention and fgd_global; shapes as in Outputs."""
        ours = self.adapters(student.maps)
        with torch.autocast(student.heads[0].device.type, enabled=False):
            levels = [self._level(s, m, frozen(teacher.maps[s]), targets) for s, m in ours.items()]
            return {
                f"fgd_{name}": sum_levels([level[name] for level in levels]) * (self.gain * weight)
                for name, weight in self.weights.items()
            }

    def _level(self, stride: int, ours: Tensor, theirs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the four terms of one level, means over the images; ours, theirs: (b, c, h, w) float32."""
        b, _, h, w = theirs.shape
        space_s, channel_s = self._attention(ours)
        space_t, channel_t = self._attention(theirs)
        foreground = object_weights(targets, stride, h, w)
        background = (foreground == 0).float()
        background = background / background.sum((1, 2), keepdim=True).clamp(min=1)
        squares = (channel_t * (theirs - ours).square()).mean(1) * space_t[:, 0]  # (b, h, w)
        related_s = self.context_student[str(stride)](ours)
        related_t = self.context_teacher[str(stride)](theirs)
        return {
            "foreground": (foreground * squares).sum() / b,
            "background": (background * squares).sum() / b,
            "attention": (space_t - space_s).abs().mean() + (channel_t - channel_s).abs().mean(),
            "global": (related_t - related_s).square().mean(),
        }

    def _attention(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention over cells (b, 1, h, w) and over channels (b, c, 1, 1), both of mean 1."""
        b, c, h, w = m.shape
        size = m.abs()
        space = h * w * (size.mean(1).flatten(1) / self.temperature).softmax(1)
        channel = c * (size.mean((2, 3)) / self.temperature).softmax(1)
        return space.view(b, 1, h, w), channel.view(b, c, 1, 1)


class ContextBlock(nn.Module):
    """Add to every cell what the whole map says (global context block, Cao et al., arXiv:1904.11492).

    R(F) = F + W2 ReLU(LayerNorm(W1 sum_cells softmax(k F) F)); W2 starts at 0, so that R starts as the identity and
    equal maps have equal relations.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.key = nn.Conv2d(channels, 1, 1)
        nn.init.kaiming_normal_(self.key.weight, mode="fan_in")
        nn.init.zeros_(self.key.bias)  # type: ignore[arg-type]
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        nn.init.zeros_(self.transform[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.transform[-1].bias)  # type: ignore[arg-type]

    def forward(self, m: Tensor) -> Tensor:
        """Map (b, c, h, w) to the same shape."""
        share = self.key(m).flatten(1).softmax(1)
        context = torch.einsum("bcn,bn->bc", m.flatten(2), share)
        return m + self.transform(context)[:, :, None, None]


def object_weights(targets: Targets, stride: int, h: int, w: int) -> Tensor:
    """Return 1 / (number of cells of the smallest box that covers the cell), 0 where none does: (b, h, w) float32."""
    rows, columns = (span & targets.valid[..., None] for span in covered_spans(targets.xyxy, stride, (h, w)))
    b, m = targets.valid.shape
    if not m:
        return torch.zeros((b, h, w), device=targets.xyxy.device)
    area = rows.sum(-1) * columns.sum(-1)
    by_row = rows / area.clamp(min=1)[..., None]
    return (by_row[..., :, None] * columns[..., None, :]).amax(1)


def frozen(m: Tensor) -> Tensor:
    """Return a map of the teacher in float32; whoever asks a teacher that is not tuned does so without a graph."""
    return m.float()


def sum_levels(values: list[Tensor]) -> Tensor:
    """Add the scalars of the levels."""
    return torch.stack(values).sum()


BASELINES: dict[str, type[nn.Module]] = {
    "logit": LogitDistillation,
    "fitnets": FitNets,
    "cwd": ChannelWise,
    "mgd": MaskedGenerative,
    "fgd": FocalGlobal,
    "ld": Localisation,
}
