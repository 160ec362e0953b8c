"""Recipes: the figures of every report, and that a training can run them."""

import dataclasses
import math
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import citysegzoo
from citysegzoo import factory
from citysegzoo.cli import main
from citysegzoo.data import IMAGENET
from citysegzoo.encoders.pretrained import EncoderWeights
from citysegzoo.losses import create_loss, list_losses
from citysegzoo.recipe import Recipe
from citysegzoo.reports import REPORTS
from citysegzoo.training.schedules import Constant, Poly

VARIANTS = {v.name: v for report in REPORTS.values() for v in report.variants}
RECIPES = {name: variant.recipe for name, variant in VARIANTS.items()}

# From the reports and their code, not from the recipes. Columns: optimiser, initial rate, weight
# decay, momentum; epochs (or steps) x batch; height x width of a training image before any random
# change of its size, and of a crop; flip, scale, rotation; loss. "-" is not said, or none.
REPORTED = """
unet.stevens2020_baseline  adam 1e-2 5e-4 -    3e x 4  1024x2048 -  -  -  -   CE
unet.stevens2020_improved  adam 1e-2 5e-4 -   10e x 3  1024x2048 -  -  -  -   WCE
unet.stevens2020_run1      -    -    -    -    4e x -  1024x2048 -  -  -  -   CE
unet.stevens2020_run2      -    -    -    -   10e x -  1024x2048 -  -  -  -   WCE
unet.stevens2020_run5      -    -    -    -    4e x 4  1024x2048 -  -  -  -   WCE
unet.stevens2020_run6      -    1e-2 -    -   15e x -  1024x2048 -  -  -  -   WCE
fcn.chen2020_baseline      adam 5e-3 -    -   35e x 4  512x1024  -  -  -  -   CE
fcn.chen2020_augmented     adam 1e-4 1e-4 -   30e x 2  1024x2048 - .2  - 10@.2 CE
fcn.chen2020_augmented_resized adam 1e-4 1e-4 - 30e x 2 512x1024 - .2  - 10@.2 CE
fcn.chen2020_dice          adam -    -    -   37e x 4  512x1024  -  -  -  -   Dice
fcn.chen2020_adapted       adam -    -    -   32e x 4  512x1024  -  -  -  -   CE
fcn_resnet50.chen2020_transfer adam - -   -   30e x 2  512x1024  -  -  -  -   CE
unet.chen2020              adam 1e-4 -    -   30e x 2  512x1024  -  -  -  -   CE
fcn.fixman2024_baseline    adamw 1e-3 0   -  100e x 6  1024x2048 -  -  -  -   CE
unet.fixman2024_enhanced   adamw 1e-3 0   -   92e x 4  1024x2048 -  -  -  -   CE
unet_swinv2_base.fixman2024_jnet adamw 1e-3 1e-4 - 40e x 4 1024x2048 - - - -  CE/0
segnet_vgg16.mei2019       sgd  -    -    - 7500s x -  512x1024  -  -  -  -   CE
deeplabv3_resnet101.mei2019_dl1 sgd 7e-3 1e-4 .9  40e x 8 1024x2048 513x513 - - - CE
deeplabv3_resnet101.mei2019_dl1_long sgd 7e-3 1e-4 .9 150e x 8 1024x2048 513x513 - - - CE
deeplabv3_resnet101.mei2019_dl2 sgd 7e-3 1e-4 .9  40e x 8 1024x2048 513x513 - - - CE
deeplabv3_resnet101.mei2019_dl3 sgd 7e-3 1e-4 .9  40e x 8 1024x2048 513x513 - - - CE
deeplabv3_resnet101.mei2019_dl4 sgd 7e-3 1e-4 .9  40e x 8 1024x2048 513x513 - - - CE
fcn.xiang2020_baseline     adam 1e-3 -    -  100e x 8  1024x2048 800x800 - - - CE
fcn.xiang2020_dice         adam 1e-3 -    -  100e x 8  1024x2048 800x800 - - - Dice
fcn.xiang2020_weighted     adam 1e-3 -    -  100e x 8  1024x2048 800x800 - - - WCE
fcn.xiang2020_augmented    adam 1e-3 -    -  100e x 8  1024x2048 800x800 .5 .8:1.2 3@1 CE
unet.xiang2020             adam 1e-2 -    -  100e x 10 1024x2048 608x608 .5 .8:1.2 -   CE
fcn_resnet50.xiang2020     adam 1e-2 -    -  100e x 16 1024x2048 800x800 .5 .8:1.2 -   CE
aspp_resnet50.xiang2020    adam 1e-2 -    -  100e x 6  1024x2048 800x800 .5 .8:1.2 -   CE
aspp_resnet101.xiang2020   adam 1e-2 -    -  100e x 16 1024x2048 512x512 .5 .8:1.2 -   CE
unet_aspp.xiang2020        adam 1e-2 -    -  100e x 16 1024x2048 512x512 .5 .8:1.2 -   CE
deeplabv3_resnet50.xiang2020 adam 1e-3 -  -  100e x 8  1024x2048 800x800 .5 .8:1.2 -   CE
"""
ROWS = dict(line.split(maxsplit=1) for line in REPORTED.strip().splitlines())

# What the learning rate is in an epoch, counted from 0, or at a share of all steps.
RATES = {
    "unet.stevens2020_baseline": {0: 1e-2, 1: 1e-3, 2: 1e-4},
    "unet.stevens2020_improved": {0: 1e-2, 1: 1e-3, 3: 1e-3, 4: 1e-4, 7: 1e-4, 8: 1e-5, 9: 1e-5},
    "fcn.chen2020_augmented": {9: 1e-4, 10: 1e-5, 19: 1e-5, 20: 1e-6, 29: 1e-6},
    "fcn.chen2020_augmented_resized": {9: 1e-4, 10: 1e-5, 29: 1e-6},
    "unet.chen2020": {9: 1e-4, 10: 1e-5, 29: 1e-6},
    "fcn.fixman2024_baseline": {0: 1e-3, 99: 1e-3},
    "unet.fixman2024_enhanced": {9: 1e-3, 10: 3.1623e-4, 20: 1e-4, 40: 1e-5, 91: 3.1623e-8},
    "unet_swinv2_base.fixman2024_jnet": {0: 1e-3, 39: 1e-3},
    **{
        f"deeplabv3_resnet101.mei2019_{run}": {0.0: 0.007, 0.5: 0.003751, 0.9: 0.0008813}
        for run in ("dl1", "dl1_long", "dl2", "dl3", "dl4")
    },
    **{
        f"fcn.xiang2020_{run}": {0: 1e-3, 9: 1e-3, 10: 2e-4, 20: 4e-5, 99: 5.12e-10}
        for run in ("baseline", "dice", "weighted", "augmented")
    },
    "deeplabv3_resnet50.xiang2020": {9: 1e-3, 10: 2e-4},
    **{
        f"{network}.xiang2020": {9: 1e-2, 10: 2e-3, 99: 5.12e-9}
        for network in ("unet", "fcn_resnet50", "aspp_resnet50", "aspp_resnet101", "unet_aspp")
    },
}


def number(cell):
    return None if cell == "-" else float(cell)


def size(cell):
    return None if cell == "-" else tuple(int(side) for side in cell.split("x"))


def test_every_reported_training_is_in_the_table():
    assert list(ROWS) == list(RECIPES)
    assert set(RATES) == {n for n, r in RECIPES.items() if r.schedule is not None}


@pytest.mark.parametrize("name", ROWS)
def test_figures(name):
    recipe, changes = RECIPES[name], RECIPES[name].augmentation
    optimizer, rate, decay, momentum, length, _, batch, image, crop, flip, scale, turn, loss = ROWS[
        name
    ].split()
    assert (recipe.optimizer or "-") == optimizer
    assert recipe.learning_rate == number(rate)
    assert recipe.weight_decay == number(decay)
    assert recipe.momentum == number(momentum)
    assert {"e": recipe.epochs, "s": recipe.steps}[length[-1]] == int(length[:-1])
    assert None in (recipe.epochs, recipe.steps)
    assert recipe.batch_size == number(batch)

    assert (changes.resize or (1024, 2048)) == size(image)
    assert changes.crop == size(crop)
    assert changes.flip == (number(flip) or 0)
    assert changes.scale == (None if scale == "-" else tuple(map(float, scale.split(":"))))
    if turn == "-":
        assert changes.rotate == 0
    else:
        assert (changes.rotate, changes.rotate_probability) == tuple(map(float, turn.split("@")))
    assert changes.brightness == changes.contrast == changes.saturation == changes.hue == 0

    kind, _, ignored = loss.partition("/")
    kinds = {"CE": "cross_entropy", "WCE": "weighted_cross_entropy", "Dice": "dice"}
    assert recipe.loss == f"{VARIANTS[name].report}_{kinds[kind]}"
    assert recipe.loss_options == ({"ignore_index": int(ignored)} if ignored else {})


@pytest.mark.parametrize("name", RATES)
def test_learning_rates(name):
    recipe = RECIPES[name]
    batches = math.ceil(2975 / recipe.batch_size)
    total = recipe.epochs * batches
    for when, rate in RATES[name].items():
        step = int(when * total) if isinstance(when, float) else when * batches
        factor = recipe.schedule.factor(step, steps_per_epoch=batches, total_steps=total)
        assert recipe.learning_rate * factor == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("name", ROWS)
def test_labels_and_loss_fit_the_network(name):
    recipe, classes = RECIPES[name], VARIANTS[name].num_classes
    assert (recipe.dataset, recipe.labels) == (
        "cityscapes",
        {19: "train_id", 34: "label_id"}[classes],
    )
    assert recipe.annotations == ("coarse" if "fixman2024" in name else "fine")
    assert recipe.loss in list_losses()
    loss = create_loss(recipe.loss, **recipe.loss_options)
    logits = torch.zeros(2, classes, 3, 4, requires_grad=True)
    target = torch.randint(1, classes, (2, 3, 4), generator=torch.manual_seed(0))
    loss(logits, target).backward()
    assert logits.grad.abs().sum() > 0
    # Void counts where all 34 label ids are trained, and nowhere else.
    ignored = {"label_id": None, "train_id": 255}[recipe.labels]
    assert loss.ignore_index == recipe.loss_options.get("ignore_index", ignored)


def test_the_checkpoint_kept():
    kept = {report: {v.recipe.kept for v in REPORTS[report].variants} for report in REPORTS}
    assert kept == {
        "stevens2020": {"last"},
        "chen2020": {None},
        "fixman2024": {"lowest_loss"},
        "mei2019": {None, "last"},
        "xiang2020": {"best_mean_iou"},
    }


@pytest.mark.parametrize("name", [name for name, r in RECIPES.items() if r.encoder_weights])
def test_encoder_weights_are_those_of_the_recipe(name, monkeypatch):
    asked = []

    def load(_, tag):
        asked.append(tag)
        return EncoderWeights(tag, "timm", "", IMAGENET)

    monkeypatch.setattr(factory, "load_encoder_weights", load)
    with torch.device("meta"):
        citysegzoo.create_model(name, encoder_weights=True)
    assert asked == [RECIPES[name].encoder_weights]


def test_values_are_among_those_of_the_interface():
    choices = {
        name: get_args(part)
        for name, hint in get_type_hints(Recipe).items()
        for part in (hint, *get_args(hint))
        if get_origin(part) is Literal
    }
    assert set(choices) == {"optimizer", "annotations", "labels", "kept"}
    for recipe in RECIPES.values():
        for name, values in choices.items():
            assert getattr(recipe, name) in (None, *values)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fcn.chen2020_augmented", "names no optimiser: Adam assumed"),
        ("fcn.chen2020_augmented", "Section 4.2 says 2"),
        ("fcn_resnet50.chen2020_transfer", "image size of this run is not said"),
        ("unet.chen2020", "image size of this run is not said"),
        ("unet.stevens2020_baseline", "smaller last batch was kept"),
        ("unet.stevens2020_run6", "three milestones, which ones is not recorded"),
        ("segnet_vgg16.mei2019", "image size and that void is ignored are defaults of the code"),
        ("deeplabv3_resnet101.mei2019_dl2", "report says no augmentation"),
        ("fcn.xiang2020_dice", "flip and rescale is undecided"),
        ("aspp_resnet50.xiang2020", "smaller last batch is left out"),
    ],
)
def test_what_had_to_be_read_into_a_report_is_noted(name, words):
    assert words in " ".join(RECIPES[name].notes)


def test_described():
    assert Recipe().described() == {
        **dict.fromkeys(("optimizer", "learning_rate", "epochs", "batch_size"), "not said"),
        "augmentation": "none",
        "dataset": "cityscapes",
        "annotations": "fine",
        "labels": "train_id",
    }
    texts = Recipe(
        loss="focal",
        loss_options={"gamma": 1.5, "ignore_index": 0},
        learning_rate=5e-4,
        weight_decay=0.0,
        schedule=Poly(0.9),
        steps=7500,
        notes=("A note.",),
    ).described()
    assert texts["loss_options"] == "gamma=1.5, ignore_index=0"
    assert (texts["learning_rate"], texts["weight_decay"]) == ("0.0005", "0")
    assert texts["schedule"] == str(Poly(0.9))
    assert texts["steps"] == "7500"
    assert not {"epochs", "momentum", "notes"} & set(texts)  # steps say how long it takes


def test_another_recipe_is_made_from_one():
    recipe = RECIPES["fcn.fixman2024_baseline"]
    longer = dataclasses.replace(recipe, epochs=200, schedule=Poly())
    assert (longer.epochs, longer.schedule, longer.loss) == (200, Poly(), recipe.loss)
    assert (recipe.epochs, recipe.schedule) == (100, Constant())


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "segnet_vgg16.mei2019",
            ["optimizer sgd", "learning rate not said", "steps 7500", "batch size not said"],
        ),
        (
            "unet.stevens2020_improved",
            [
                "loss stevens2020_weighted_cross_entropy",
                "schedule times 0.1 after epochs 1, 4 and 8",
                "batch size 3",
                "augmentation none",
                "notes The milestones stand in the report alone; the committed train.py has equal "
                "steps only. That the rate drops after the epoch is a reading.",
            ],
        ),
        ("unet.stevens2020_run1", ["optimizer not said", "epochs 4"]),
        ("unet_swinv2_base.fixman2024_jnet", ["loss options ignore_index=0", "annotations coarse"]),
    ],
)
def test_shown_on_the_command_line(name, lines, capsys):
    assert main(["show", name]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line not in shown] == []


def test_frozen_parts_are_frozen() -> None:
    """What a recipe says is frozen is what the model's option freezes."""
    for name in citysegzoo.list_models():
        info = citysegzoo.model_info(name)
        if info.recipe is not None:
            frozen = ("encoder",) if info.options.get("freeze_encoder") else ()
            assert info.recipe.frozen == frozen, name
    recipe = citysegzoo.model_info("fcn_resnet50.chen2020_transfer").recipe
    assert recipe is not None
    assert recipe.described()["frozen"] == "encoder"
