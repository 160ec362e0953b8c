"""xiang2020: FCN, U-Net, ResNet-50 and atrous pyramids, and losses for the FCN."""

from __future__ import annotations

import math
from dataclasses import replace

from citysegzoo.data.augmentation import Augmentation
from citysegzoo.recipe import Recipe
from citysegzoo.reports._report import Report
from citysegzoo.reports._tables import CLASSES_5, CLASSES_19, Column, per_class, read_table
from citysegzoo.training.schedules import StepDecay
from citysegzoo.variant import Result, Variant

# fmt: off
PIXEL_COUNTS = (
    742593219, 86277776, 348211930, 10532667, 14233504, 22534680, 3647030, 9750011, 274652891,
    18558778, 62168130, 25954782, 3507436, 125749610, 5053833, 4915128, 4801188, 1896224, 8614510,
)
"""Pixels of each of the 19 classes as train.py of the repository counts them."""
# fmt: on

_MEAN = "mean_class_iou_pct"
_MEAN_OF_5 = "mean_of_5_listed_classes_iou_pct"

_TABLE_5_UPPER = read_table(
    """
Baseline | 63.1 20.1 30.2 50.8 12.2 25.4
Resnet50 | 73.2 20.2 32.5 71.9 17.2 29.1
UNet     | 77.1 55.9 46.2 78   48.7 42.7
Deeplab  | 80.2 51.2 56.7 76.4 53.4 49.9
Ours     | 78.7 49.1 55.3 82.2 55.3 50.0
""",
    (*per_class("class_iou_pct", CLASSES_5), Column(_MEAN)),
    source="Table 5 (upper)",
    notes={
        ("Deeplab", _MEAN): 'later revision 5b335e2 relabels this row "U-Net + ASPP" with the same '
        "figures",
        ("Ours", _MEAN): 'later revision: "ResNet + ASPP"',
    },
)

_COPIED = "identical to the weighted-loss row: copy-paste error, true per-class values unknown"
_TABLE_5_LOWER = read_table(
    """
Baseline     | 63.1 20.1 30.2 50.8 12.2 35.28
Dice Loss    | 71   28   34.3 62.6 12.7 41.72
Weight. Loss | 66.5 35.1 33.7 52.7 30.1 43.62
Augmented    | 66.5 35.1 33.7 52.7 30.1 43.62
""",
    (
        *per_class("class_iou_pct", CLASSES_5),
        Column(
            _MEAN_OF_5,
            note="column headed mIOU, but it is the mean of the five printed classes, not of 19; "
            "corrected to the mean of 19",
        ),
    ),
    source="Table 5 (lower)",
    notes={
        **{("Augmented", name): _COPIED for name in CLASSES_5},
        ("Augmented", _MEAN_OF_5): "copied from the weighted-loss row",
    },
    corrected={
        **{("Augmented", name): math.nan for name in CLASSES_5},
        ("Baseline", _MEAN_OF_5): 25.41,
        ("Dice Loss", _MEAN_OF_5): 29.57,
        ("Weight. Loss", _MEAN_OF_5): 32.40,
        ("Augmented", _MEAN_OF_5): 31.3,
    },
)

_TABLE_6 = read_table(
    """
Baseline     | 83.1
Resnet50     | 88.0
UNet         | 91.1
Deeplab      | 92.1
Ours         | 92.0
Dice         | 87.1
Weight. Loss | 83.6
Augmented    | 86.0
""",
    [Column("pixel_accuracy_pct")],
    source="Table 6",
    notes={("Augmented", "pixel_accuracy_pct"): "the later revision prints 86.1"},
    corrected={("Augmented", "pixel_accuracy_pct"): 86.1},
)

_REVISION = read_table(
    """
Baseline     | 25.4 -
Dice Loss    | 29.6 -
Weight. Loss | 32.4 -
Augmented    | 31.3 86.1
""",
    (Column(_MEAN), Column("pixel_accuracy_pct")),
    source="later report revision (repo commit 5b335e2, PA3_Group.pdf, Table 5)",
    row_note="",
    notes={
        **{(row, _MEAN): "true 19-class mean" for row in ("Baseline", "Dice Loss", "Weight. Loss")},
        ("Augmented", _MEAN): "true 19-class mean; per-class columns of Augmented still copied",
        ("Augmented", "pixel_accuracy_pct"): "the report prints 86.0",
    },
)

# Rows in blocks: 19 classes, then mean and pixel accuracy.
_MERGE = read_table(
    """
fcn.xiang2020_baseline |
    0.730241179 0.332855314 0.63139838 0.000479245995 0.00489278836 0.126147553 0 0.201303989
    0.797311604 0.306767225 0.765498996 0.301871002 0 0.507823408 0 0 0 0 0.122203693
    0.25414707249236845 0.8313693035693839
unet.xiang2020 |
    0.76558155 0.57691383 0.77113068 0.12833847 0.22157449 0.45102286 0.36401013 0.55917227
    0.87275022 0.43038559 0.81529766 0.46183452 0.15253368 0.77989101 0.04093395 0.11353317
    0.01616228 0.09720594 0.48719034
    0.4266032968421053 0.9106153805324106
fcn_resnet50.xiang2020 |
    0.757946491 0.51690346 0.731663048 0.0301460642 0.0060870857 0.0426573008 0 0.202575713
    0.829552948 0.362801403 0.831954777 0.324804872 0 0.718937099 0.000557212683 0.000187122394
    0.000530782563 0 0.171973988
    0.2910147035442105 0.8803274661511491
fcn.xiang2020_weighted |
    0.751631737 0.385198027 0.665327966 0.11339727 0.162945315 0.285945386 0.156231195 0.351170719
    0.81523782 0.347734809 0.743639052 0.337053925 0.0580587909 0.526960194 1.52075618e-05
    0.0742391124 0.0138068618 0.0651845485 0.301597744
    0.3239671410611474 0.8365317358563858
fcn.xiang2020_dice |
    0.823633015 0.406612396 0.710122526 0.060104467 0.0585489832 0.216648847 0.000119540622
    0.280434281 0.841342866 0.31827724 0.80783397 0.3429887 5.51283756e-06 0.625492811 0 0 0 0
    0.126702085
    0.2957298547715558 0.8709270761440688
""",
    (
        *per_class(
            "class_iou_frac",
            CLASSES_19,
            "predictions on void pixels count as false positives (repo IOU class)",
        ),
        Column("mean_class_iou_frac", note="derived: mean of the 19 listed values"),
        Column("pixel_accuracy_frac", note="mean of per-batch accuracies over non-void pixels"),
    ),
    source="repo utils/merge.py",
    row_note="",
)

_AUGMENTATION = Augmentation(flip=0.5, scale=(0.8, 1.2), crop=(800, 800))
_CROPS_512 = replace(_AUGMENTATION, crop=(512, 512))
_RECIPE = Recipe(
    loss="xiang2020_cross_entropy",
    optimizer="adam",
    learning_rate=0.01,
    schedule=StepDecay(every=10, gamma=0.2),
    epochs=100,
    augmentation=_AUGMENTATION,
    kept="best_mean_iou",
    notes=(
        "Settings of the repository's last configuration; the factor was 0.1 before "
        "13 February 2020. Fewer than 100 epochs may have been run.",
        "The code sets the rate after an epoch by that epoch's number: each drop comes one epoch "
        "later than here.",
        "The mean IoU that decides is that of validation crops, augmented as in training; a "
        "smaller last batch is left out.",
    ),
)
_FCN_NOTES = (
    *_RECIPE.notes,
    "Earlier configurations have batch 16 or 32, crops of 512x512 and rate 0.01; which one made "
    "the figures is not recorded.",
)
_FCN_RECIPE = replace(
    _RECIPE,
    learning_rate=1e-3,
    batch_size=8,
    augmentation=Augmentation(crop=(800, 800)),
    notes=(
        *_FCN_NOTES,
        "No rotation at least, for that is what the augmented run adds; whether crop or resize, "
        "flip and rescale is undecided.",
    ),
)

_BASELINE = Variant(
    "fcn",
    "xiang2020_baseline",
    summary="Baseline: five stride-2 convolutions of 32 to 512 channels, five transposed ones "
    "back, the starter network of the assignment.",
    report="xiang2020",
    recipe=_FCN_RECIPE,
    results=_TABLE_5_UPPER["Baseline"]
    + _TABLE_5_LOWER["Baseline"]
    + _TABLE_6["Baseline"]
    + _REVISION["Baseline"]
    + _MERGE["fcn.xiang2020_baseline"],
)

_ASPP = {
    "align_corners": True,
    "bias": True,
    "bare_first_branch": True,
    "norm_logits": True,
}

REPORT = Report(
    key="xiang2020",
    title="PA3 Report: Convolutional Neural Network Implementation for Semantic Segmentation on "
    "the Cityscapes Dataset",
    authors=("Hao Xiang", "Huimin Zeng", "Xingyi Yang", "Zhenrui Yue"),
    year=2020,
    institution="University of California San Diego, CSE 253 Neural Networks / Pattern "
    "Recognition, assignment 3",
    summary="An FCN, a U-Net, ResNet-50 under a transposed-convolution decoder and atrous pyramids "
    "on ResNet and U-Net, with Dice loss, class weights and augmentation for the FCN; the pyramid "
    "on ResNet-50 is best with 50.0 % mean IoU.",
    code="github cse253-team-repo/PA3 @e966f46",
    variants=(
        _BASELINE,
        replace(
            _BASELINE,
            variant="xiang2020_dice",
            summary="The baseline's network trained with Dice loss.",
            recipe=replace(
                _FCN_RECIPE,
                loss="xiang2020_dice",
                notes=(
                    *_FCN_RECIPE.notes,
                    "No committed train.py has the Dice loss; settings as the baseline's, assumed.",
                ),
            ),
            results=_TABLE_5_LOWER["Dice Loss"]
            + _TABLE_6["Dice"]
            + _REVISION["Dice Loss"]
            + _MERGE["fcn.xiang2020_dice"],
        ),
        replace(
            _BASELINE,
            variant="xiang2020_weighted",
            summary="The baseline's network trained with class weights.",
            recipe=replace(
                _FCN_RECIPE,
                loss="xiang2020_weighted_cross_entropy",
                notes=(
                    *_FCN_RECIPE.notes,
                    "The weights are those of the train.py of 13 February 2020; the WCELoss in "
                    "model/Loss.py is broken and unused. Other settings as the baseline's, "
                    "assumed.",
                ),
            ),
            results=_TABLE_5_LOWER["Weight. Loss"]
            + _TABLE_6["Weight. Loss"]
            + _REVISION["Weight. Loss"]
            + _MERGE["fcn.xiang2020_weighted"],
        ),
        replace(
            _BASELINE,
            variant="xiang2020_augmented",
            summary="The baseline's network trained with flips, rotations and rescaling.",
            recipe=replace(
                _FCN_RECIPE,
                augmentation=replace(_AUGMENTATION, rotate=3.0),
                notes=(
                    *_FCN_NOTES,
                    "Augmentation as in the later revision; no committed train.py rotates.",
                ),
            ),
            results=_TABLE_5_LOWER["Augmented"] + _TABLE_6["Augmented"] + _REVISION["Augmented"],
        ),
        Variant(
            "unet",
            "xiang2020",
            summary="Modified U-Net: batch norm in all but the first convolution, bilinear resize "
            "and 3x3 convolution on the way up.",
            options={"first_norm": False, "up": "bilinear", "align_corners": True},
            report="xiang2020",
            recipe=replace(
                _RECIPE,
                batch_size=10,
                augmentation=replace(_AUGMENTATION, crop=(608, 608)),
                notes=(*_RECIPE.notes, "An earlier configuration has batch 8."),
            ),
            results=_TABLE_5_UPPER["UNet"] + _TABLE_6["UNet"] + _MERGE["unet.xiang2020"],
        ),
        Variant(
            "fcn_resnet50",
            "xiang2020",
            summary="Modified ResNet-50: fine-tuned ResNet-50 under the baseline's decoder.",
            report="xiang2020",
            recipe=replace(_RECIPE, batch_size=16, encoder_weights="resnet50.tv_in1k"),
            results=_TABLE_5_UPPER["Resnet50"]
            + _TABLE_6["Resnet50"]
            + _MERGE["fcn_resnet50.xiang2020"],
        ),
        Variant(
            "aspp_resnet50",
            "xiang2020",
            summary='ResNet + ASPP, taken to be the row "Ours": class pyramids on the last two '
            "levels of ResNet-50 at stride 8, summed.",
            options={"output_stride": 8, "levels": 2, **_ASPP},
            report="xiang2020",
            recipe=replace(
                _RECIPE,
                batch_size=6,
                encoder_weights="resnet50.tv_in1k",
                notes=(*_RECIPE.notes, "config/aspp_yxy.yaml."),
            ),
            results=_TABLE_5_UPPER["Ours"] + _TABLE_6["Ours"],
        ),
        Variant(
            "aspp_resnet101",
            "xiang2020",
            summary="ResNet + ASPP as Section 3.4 has it: a class pyramid on ResNet-101 at stride "
            "32; no row of the tables is taken to be it.",
            options={"output_stride": 32, **_ASPP},
            report="xiang2020",
            recipe=replace(
                _RECIPE,
                batch_size=16,
                augmentation=_CROPS_512,
                encoder_weights="resnet101.tv_in1k",
                notes=(*_RECIPE.notes, "config/aspp.yaml."),
            ),
        ),
        Variant(
            "unet_aspp",
            "xiang2020",
            summary="U-Net + ASPP: the modified U-Net with pyramids for its third decoder level "
            "and its classifier; no row of the tables is taken to be it.",
            options={"first_norm": False, **_ASPP},
            report="xiang2020",
            recipe=replace(
                _RECIPE,
                batch_size=16,
                augmentation=_CROPS_512,
                notes=(*_RECIPE.notes, "config/aspp.yaml."),
            ),
        ),
        Variant(
            "deeplabv3_resnet50",
            "xiang2020",
            summary='torchvision\'s DeepLabv3 on ResNet-50, taken to be the row "Deeplab".',
            report="xiang2020",
            recipe=replace(
                _RECIPE,
                learning_rate=1e-3,
                batch_size=8,
                encoder_weights="resnet50.tv_in1k",
                notes=(*_RECIPE.notes, "No auxiliary classifier."),
            ),
            results=_TABLE_5_UPPER["Deeplab"] + _TABLE_6["Deeplab"],
        ),
    ),
    contradictions=(
        "The lower half of Table 5 heads a column mIOU that is the mean of the five printed "
        "classes (35.28, 41.72, 43.62) -> corrected by the repository and the later revision to "
        "the mean of 19: 25.41, 29.57, 32.40 and 31.3.",
        "The Augmented row of Table 5 is a copy of the row above it -> its per-class figures are "
        "unknown; the later revision has mean IoU 31.3 and pixel accuracy 86.1.",
        'The row "Deeplab" (49.9) is relabelled U-Net + ASPP by the later revision, the '
        "images beside it are labelled Deeplabv3 -> taken to be torchvision's DeepLabv3.",
        "The best model is on ResNet-50 in Section 5.1 and in the later abstract, on ResNet-101 in "
        "Section 3.4 -> aspp_resnet50.xiang2020, added to the repository on the day of the report, "
        "is taken to be it; the network of Section 3.4 is aspp_resnet101.xiang2020.",
        "Table 4 has 128 channels in the pyramid's branches, the code on ResNet 256 -> 256.",
        "According to the text pyramids replace deconv4 and the classifier of U-Net + ASPP -> in "
        "the code they replace the third decoder level and the last one with the classifier; "
        "deconv4 stays.",
        "The text claims Xavier initialisation -> no committed code calls it; PyTorch's defaults.",
        "According to Section 3 all models are trained with cross-entropy -> all but the Dice run; "
        "the weighted run weighs it by class.",
        "Table 1 is captioned as the modified U-Net -> it is the baseline; its text counts four "
        "convolutions, the table five.",
        "Dice is printed without the factor 2 in the later revision -> the code, which has it.",
        "The later revision lists rotations, no committed train.py has them -> the augmented run "
        "alone has them here.",
        "The number of classes is not printed, early configurations have 34 -> 19.",
        "The IoU counts predictions on void pixels as false positives -> kept as printed, lower "
        "than the official IoU of the same predictions would be.",
        'The Abstract has "XXX" for its figures -> the later revision has 92 % accuracy and 50 % '
        "mean IoU for the best model.",
        "Labels are rescaled with Pillow's default filter, which may invent label ids -> to be "
        "resized by nearest neighbour.",
    ),
    other_results=(
        Result(
            "mean_class_iou_frac",
            0.3586,
            "val (augmented 512x512 crops)",
            "repo curves_Deeplab.json",
            note="best of 53 epochs of class Deeplab, then configured as ResNet-101 at rate 0.01: "
            "none of the reported runs",
        ),
        Result(
            "pixel_accuracy_frac",
            0.8828,
            "val (augmented 512x512 crops)",
            "repo curves_Deeplab.json",
            note="of the same run",
        ),
    ),
)
