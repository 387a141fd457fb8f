"""The job of quantisation-aware training: what the recipe may say, the slices of data, the ladder, the teacher."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from quantize.bilevel import weights_of
from tests.train.test_distilling import batch_of
from train.distilling import build_losses
from train.model import Yolov8
from train.quantised_model import QuantisedYolov8, rebuild
from train.quantising import (
    NECK_AND_HEAD,
    Ladder,
    endless,
    make_tuner,
    quantised,
    quantising_job,
    settings_of,
    split_query,
    stage_recipe,
)
from train.recipe import parse_recipe
from train.supervised import batches_of, detection_loss
from train.teacher_cache import weights_digest
from train.teacher_student import channels_of


def recipe_of(**sections):
    raw = {
        "name": "small",
        "data": {"format": "procedural", "train": {"count": 4}, "val": {"count": 2}, "workers": 0},
        "train": {"image_size": 64, "batch": 4, "precision": "float32", "device": "cpu", "validate_every": 1},
        "quantize": {"method": "train", "weights": [12, 8], "activations": [12, 8], "epochs": 2, "observe_batches": 1},
        "export": {"enabled": False},
    }
    for section, keys in sections.items():
        raw[section] = {**raw.get(section, {}), **keys}
    return parse_recipe(raw, "small")


def float_model(seed=0):
    """A network whose BatchNorm has statistics, as training leaves it."""
    torch.manual_seed(seed)
    model = Yolov8("n", 2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return float_model()


MADE = {}


def student_of(recipe, model, pictures):
    """Return a fresh student; the same one is put together only once."""
    key = recipe.quantize.model_dump_json(exclude={"tuning", "losses"})
    if key not in MADE:
        MADE[key] = quantised(recipe, model, batches_of(recipe, pictures)[0](0))
    return copy.deepcopy(MADE[key])


# ---- the recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantize": {"weights": [8, 12]}}, r"quantize: the ladder of weights must go down, got 8 -> 12; sort it"),
        ({"quantize": {"activations": [8, 10]}}, r"quantize: the ladder of activations must go down"),
        ({"quantize": {"weights": [32, 8]}}, r"the ladder of weights must stay within 2 to 16 bits, got 32"),
        ({"quantize": {"weights": [12, 10, 8], "epochs": 9}}, r"must have the same number of rungs"),
        ({"quantize": {"shares": [1.0]}}, r"shares must be 2 numbers above 0"),
        ({"quantize": {"epochs": 1}}, r"a ladder of 2 rungs needs at least 2 epochs, got 1; train longer"),
        (
            {"quantize": {"weights": [8, 4], "activations": [8, 4]}, "export": {"enabled": True}},
            r"ends at 4 bits for weights and 4 for activations, the RK3588 runs 8 and 8; end it there, or set "
            r"export\.enabled to false",
        ),
        ({"quantize": {"activations": [8, 6]}, "export": {"enabled": True}}, r"ends at 8 bits for weights and 6"),
        ({"export": {"enabled": True, "precision": "fp16"}}, r"export\.precision must be int8 with quantize\.method"),
        ({"quantize": {"tuning": {"every": 2}}}, r"quantize\.tuning\.every tunes a teacher.*quantize\.losses must"),
        (
            {"quantize": {"losses": ["cwd"], "learn": False, "tuning": {"every": 2}}},
            r"quantize\.tuning needs learnt ranges, quantize\.learn is false; set it to true",
        ),
        ({"quantize": {"losses": ["magnitud"]}}, r"quantize\.losses names an unknown loss .*did you mean magnitude\?"),
        ({"quantize": {"losses": ["cwd", "cwd"]}}, r"quantize\.losses must name each loss once"),
        ({"quantize": {"losses": ["cwd"]}, "distill": {"cwd": {"gain": 0}}}, r"quantize\.losses names 'cwd': then"),
        ({"quantize": {"methd": "train"}}, r"quantize\.methd is not a key of a recipe; did you mean method\?"),
        ({"quantize": {"tuning": {"query_share": 1.0}}}, r"quantize\.tuning\.query_share"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_are_refused_in_one_line(changes, said):
    with pytest.raises(ValueError, match=said) as caught:
        recipe_of(**changes)
    assert "\n" not in str(caught.value)


def test_few_bits_are_fine_where_nothing_is_exported():
    recipe = recipe_of(quantize={"weights": [8, 4], "activations": [8, 4]})
    assert not recipe.quantize.deployable
    assert [(r.weights, r.activations) for r in recipe.quantize.rungs()] == [(8, 8), (4, 4)]
    assert recipe_of(quantize={"weights": [8]}).quantize.rungs()[0].weights == 8, "one width holds for all rungs"


def test_calibration_needs_no_epochs_for_its_ladder():
    assert recipe_of(quantize={"method": "calibrate", "epochs": 1}).quantize.deployable


def test_the_stage_has_its_own_length_and_losses():
    recipe = recipe_of(
        quantize={"losses": ["cwd"], "learning_rate": 2e-5, "mosaic": 0.25},
        distill={"losses": ["magnitude"], "cache": "c"},
    )
    stage = stage_recipe(recipe)
    assert (stage.train.epochs, stage.train.learning_rate, stage.train.freeze_batch_norm) == (2, 2e-5, True)
    assert (stage.augment.mosaic, stage.augment.close_mosaic_epochs) == (0.25, 0)
    assert (stage.distill.losses, stage.distill.cache) == (["cwd"], "")
    assert stage_recipe(stage) == stage


# ---- data


def test_the_query_slice_is_taken_from_the_train_split_and_from_nowhere_else(pictures):
    rest, query = split_query(pictures, 0.3, 0)
    names = [{i.path for i in part.images} for part in (rest, query, pictures)]
    assert len(names[1]) == round(0.3 * 8)
    assert not names[0] & names[1]
    assert names[0] | names[1] == names[2]
    again = split_query(pictures, 0.3, 0)[1]
    assert [i.path for i in again.images] == [i.path for i in query.images]
    assert [i.path for i in split_query(pictures, 0.3, 1)[1].images] != [i.path for i in query.images]
    assert len(split_query(pictures, 0.001, 0)[1].images) == 1
    with pytest.raises(ValueError, match=r"query_share takes 8 of 8 train images and leaves none; lower it"):
        split_query(pictures, 0.99, 0)


def test_queries_never_end():
    stream = endless(lambda epoch: [f"{epoch}a", f"{epoch}b"])
    assert [next(stream) for _ in range(5)] == ["0a", "0b", "1a", "1b", "2a"]


# ---- the network


def test_a_student_begins_as_its_float_network(model, pictures):
    recipe = recipe_of(quantize={"weights": [16, 8], "activations": [16, 8]})
    before = weights_digest(model)
    student = student_of(recipe, model, pictures)
    assert weights_digest(model) == before
    x = next(iter(batches_of(recipe, pictures)[0](0))).images.float() / 255  # what the observers saw
    with torch.no_grad():
        for ours, theirs in zip(student(x), model(x), strict=True):
            assert float((ours - theirs).square().mean()) < 1e-3 * float(theirs.var())
    assert all(q.learnt for q in student.network.activation_quantisers().values())
    assert not student.folded
    assert not student.training


def test_observing_leaves_batch_norm_alone(model, pictures):
    student = student_of(recipe_of(), model, pictures)
    ours, theirs = student.network.graph.state_dict(), model.state_dict()
    for name in theirs:
        if "running" in name:
            assert torch.equal(ours[name], theirs[name]), name


def test_calibration_stands_on_the_last_rung_folded_and_frozen(model, pictures):
    student = student_of(recipe_of(quantize={"method": "calibrate"}), model, pictures)
    assert student.folded
    assert student.describe()["weights"] == student.describe()["activations"] == 8
    assert all(q.frozen for q in student.network.quantisers().values())
    assert not any(q.learnt for q in student.network.quantisers().values())


def test_a_single_rung_is_folded_from_the_start(model, pictures):
    assert student_of(recipe_of(quantize={"weights": [8], "activations": [8]}), model, pictures).folded


@pytest.mark.parametrize("learn", [True, False])
def test_a_kept_network_rebuilds_to_the_same_outputs(model, pictures, learn):
    recipe = recipe_of(quantize={"learn": learn})
    student = student_of(recipe, model, pictures)
    x = torch.rand(1, 3, 64, 64)
    for step_down in (False, True):
        if step_down:
            student.fold()
            student.network.set_bits(8, 8)
        with torch.no_grad():
            heads = student.eval()(x)
            content = {
                "quantised": student.describe(), "size": "n", "class_names": ["a", "b"], "model": student.state_dict()
            }  # fmt: skip
            again = rebuild(content, "x").to(memory_format=torch.channels_last)
            assert all(torch.equal(a, b) for a, b in zip(heads, again(x), strict=True))
    content["model"] = {k: v for k, v in content["model"].items() if "model.0" not in k}
    with pytest.raises(ValueError, match="x: damaged, its weights do not fit"):
        rebuild(content, "x")


def test_a_layer_left_in_float_is_kept_in_the_checkpoint(model, pictures):
    recipe = recipe_of(quantize={"float16": ["model.22.cv3.0"]})
    student = student_of(recipe, model, pictures)
    assert student.network.placement.islands == [f"model.22.cv3.0.{n}" for n in ("0.conv", "1.conv", "2")]
    again = QuantisedYolov8(copy.deepcopy(model), settings_of(recipe))
    again.shape(student.describe())
    again.load_state_dict(student.state_dict())
    with pytest.raises(ValueError, match=r"float16 names 'model\.99', no convolution is called so"):
        student_of(recipe_of(quantize={"float16": ["model.99"]}), model, pictures)


# ---- the ladder


def test_stepping_down_changes_every_model_and_says_so(model, pictures):
    recipe = stage_recipe(recipe_of())
    student = student_of(recipe, model, pictures)
    average = copy.deepcopy(student)
    ladder = Ladder(recipe, 2, student, None)
    assert ladder.begin_epoch(0, {}, [student, average]) is None
    assert ladder.describe()["weights"] == 12
    ranges = {n: q.current()[0] * q.grid.steps for n, q in student.network.activation_quantisers().items()}
    told = ladder.begin_epoch(1, {"box": 1.0, "tuning_query": 9e9}, [student, average])
    assert told == "from epoch 2: 8-bit weights, 8-bit activations, BatchNorm folded"
    for each in (student, average):
        assert each.folded
        assert not any(isinstance(m, nn.BatchNorm2d) for m in each.modules())
        assert {q.grid.bits for q in each.network.quantisers().values()} == {8}
    for name, quantiser in student.network.activation_quantisers().items():
        assert float(quantiser.current()[0].detach() * 255) == pytest.approx(float(ranges[name].detach()), rel=1e-3), (
            name
        )
    # A warm-up and half a cosine in each rung: the rate rises again where the second begins.
    assert ladder.rate(2) > ladder.rate(1)


def test_converged_rungs_are_left_early_by_the_losses_alone(model, pictures):
    recipe = stage_recipe(recipe_of(quantize={"early": True, "epochs": 20}))
    student = student_of(recipe, model, pictures)
    ladder = Ladder(recipe, 2, student, None)
    stepped = []
    for epoch in range(8):
        # What is told about the teacher's tuning swings, the losses stand still.
        losses = {"box": 1.0, "tuning_query": 100.0 / (epoch + 1)} if epoch else {}
        stepped.append(ladder.begin_epoch(epoch, losses, [student]) is not None)
    assert stepped.index(True) == 4
    assert ladder.walk.last


# ---- the teacher and its tuning


def training(student):
    """Set a student as the loop does: BatchNorm keeps what it has."""
    student.train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return student


def tuned_job(pictures, model, **tuning):
    recipe = stage_recipe(recipe_of(quantize={"losses": ["cwd"], "tuning": {"every": 1, "rate": 1e-3, **tuning}}))
    student = student_of(recipe, model, pictures)
    teacher = copy.deepcopy(model)
    return recipe, student, teacher, quantising_job(recipe, pictures, pictures, {}, student, teacher)


def test_a_step_tunes_neck_and_head_of_the_teacher_and_leaves_its_student_to_the_loop(model, pictures):
    _, student, teacher, job = tuned_job(pictures, model)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    ours = {k: v.clone() for k, v in student.state_dict().items()}
    network = job.assemble(training(student))
    losses = job.make_step(network)(batch_of(pictures))
    assert {"tuning_query", "tuning_teacher_task", "cwd"} <= losses.keys()
    assert not losses["tuning_query"].requires_grad
    moved = {k for k, v in teacher.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(k.startswith(NECK_AND_HEAD) for k in moved)
    assert not [k for k in moved if "running" in k], "BatchNorm statistics stay"
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(v, ours[k]) for k, v in student.state_dict().items())
    assert all(p.grad is None for p in (*student.parameters(), *teacher.parameters()))
    torch.stack([v for v in losses.values() if v.requires_grad]).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0


def test_neck_and_head_are_what_lies_behind_the_backbone(model):
    kinds = {k.split(".")[1] for k in dict(model.named_parameters()) if k.startswith(NECK_AND_HEAD)}
    assert kinds == {"12", "15", "16", "18", "19", "21", "22"}
    assert not [k for k in dict(model.named_parameters()) if k.startswith("model.1.") and k.startswith(NECK_AND_HEAD)]


def test_named_parts_move_and_unknown_ones_are_told(model, pictures):
    _, student, teacher, job = tuned_job(pictures, model, parts=["model.22.cv3"])
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    job.make_step(job.assemble(training(student)))(batch_of(pictures))
    moved = {k for k, v in teacher.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(k.startswith("model.22.cv3") for k in moved)
    with pytest.raises(ValueError, match=r"no parameter begins with '.*model\.30'"):
        tuned_job(pictures, model, parts=["model.30"])


@pytest.mark.parametrize("loss", ["cwd", "magnitude", "fgd", "mgd", "logit"])
def test_what_the_teacher_says_reaches_the_query_loss(model, pictures, loss):
    """The exact gradient by the teacher's parameters against the finite difference, on the recipe's own losses.

    At the 4 bits at which it matters. A loss that takes the teacher for a constant, or that draws at random in each
    call, cannot tune it.
    """
    found = []
    for order in ("second", "first"):
        tuning = {"every": 1, "anchor": 0, "order": order, "parts": ["model.21", "model.22"]}
        recipe = stage_recipe(
            recipe_of(quantize={"losses": [loss], "weights": [4], "activations": [4], "tuning": tuning})
        )
        torch.manual_seed(0)
        student, teacher = training(student_of(recipe, model, pictures)), float_model(1).requires_grad_(False)
        losses = build_losses(recipe.distill, channels_of(student), channels_of(teacher))
        tuner = make_tuner(recipe, student, teacher, detection_loss(recipe), losses)
        gradients = []
        tuner.optimiser.step = lambda tuner=tuner, gradients=gradients: gradients.extend(
            p.grad.flatten().clone() for p in tuner.moving.values()
        )
        tuner.step(batch_of(pictures), lambda: batch_of(pictures, 4))
        found.append(torch.cat(gradients))
    assert float(found[0].norm()) > 0
    assert float(nn.functional.cosine_similarity(*found, dim=0)) > 0.999


def test_the_pseudo_students_step_moves_weights_and_no_range(model, pictures):
    student = student_of(recipe_of(), model, pictures)
    moving = weights_of(student)
    assert moving
    assert not [n for n in moving if n.endswith(("stretch", "shift"))]
    assert all(np.isfinite(float(p.sum())) for p in moving.values())
