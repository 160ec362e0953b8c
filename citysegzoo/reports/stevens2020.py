"""stevens2020: a small U-Net and what class weights, batch norm and depth do for it."""

from __future__ import annotations

from dataclasses import replace

from citysegzoo.data.preprocessing import UNIT_RANGE
from citysegzoo.recipe import Recipe
from citysegzoo.reports._report import Report
from citysegzoo.reports._tables import CATEGORIES_7, CLASSES_19, Column, per_class, read_table
from citysegzoo.training.schedules import MultiStepDecay, StepDecay
from citysegzoo.variant import Variant

# fmt: off
PIXEL_COUNTS = (
    704950, 286002726, 81359604, 94111150, 83752079, 17818704, 75629728, 2036416525, 336090793,
    39065130, 11239214, 1260636120, 36199498, 48454166, 547202, 17860177, 3362825, 67789506,
    499872, 11477088, 30448193, 879783988, 63949536, 221979646, 67326424, 7463162, 386328286,
    14772328, 12990290, 2493375, 1300575, 12863955, 5449152, 22861233,
)
"""Pixels of each of the 34 label ids in the 2975 training images, from the repository."""
# fmt: on

_AVERAGE = Column(
    "mean_category_iou_pct",
    note='"Score average": mean over the 7 evaluated CATEGORIES, not a class mIoU; Conclusion '
    "calls it mIoU (and compares baseline/val 16.7 with improved/test, printed there as 52.6)",
)
_TABLE_5 = (*per_class("category_iou_pct", CATEGORIES_7), _AVERAGE)

_TABLE_5_TEST = read_table(
    """
improved | 66.7421 89.7289 5.89255 74.5018 3.63665 78.8369 48.5196 52.5512
""",
    _TABLE_5,
    source="Table V",
    split="test",
    row_note="",
)

_TABLE_5_VAL = read_table(
    """
baseline | 11.3660 60.6645 0.0000 44.8942 0.0000  0.0000  0.0000 16.7035
improved | 63.9651 89.4850 9.4731 72.3765 3.6762 65.7392 42.6824 49.6282
""",
    _TABLE_5,
    source="Table V",
    row_note="",
)

_EVALUATED = "official evaluator"
# Rows in blocks: 19 classes, 7 categories, 4 means, 2 pixel accuracies.
_REPOSITORY = read_table(
    """
id1-4e-CE |
    0.8132071913108777 0.06974559587237605 0.5465003960441757 0 0 0 0 0.011696366271355698
    0.7476504122482781 0.2104242154889889 0.6868332903411087 0 0 0.27329114385094083 0 0 0 0 0
    0.5663452748636458 0.8743080913446794 0 0.7458902275881779 0.0033569165224263385
    0.6868332903411087 0.2880807414837674
    0.1768078216541106 0.45211636316340087 0.0314902452846011 0.13326632031860472
    0.7415839922067263 0.703035044670105
id2-10e-WCE |
    0.8373680924450019 0.21067907705234307 0.6432677320122298 0 0 0.028370389392471582
    0.0006119194661249843 0.14916445462029915 0.7931595478992971 0.2752273446717891
    0.6858400286444146 0.13023297679928833 0 0.3557658773909883 0 0 0 0 0.023988431854451736
    0.6613819235876596 0.894663257851531 0.14230081203244319 0.7988945115486843
    0.08834231951062638 0.6858400286444146 0.38330105147120713
    0.21756188801308948 0.5221034149495094 0.06804913657297271 0.28136229187180084
    0.7738903920834687 0.750129264831543
id3-10e-WCE-d5-MS |
    0.8342422626994738 0.18732614009279455 0.6242661729578336 1.190727093685217e-06 0
    0.0003694943466555796 0 0.09880883245546984 0.7214724545257635 0.27618722249681005
    0.6573918334734816 0.08961896396206996 0 0.3886972377543355 0 0 0 0 6.300461316704213e-05
    0.6396512591234564 0.8948499690844858 0.09473055262786755 0.7237652692440492
    0.03676172422038076 0.6573918334734816 0.42682434399924
    0.2041286742160499 0.496282135967566 0.06257290414345412 0.27140254895180776
    0.7635890239940407 0.739081880569458
id5-4e-WCE |
    0.8032915075818202 0.04320648764137879 0.5507545020837473 0 0 0 0 0 0.7324314237607924
    0.23734307457257967 0.6675867188286383 0.002684897309700249 0 0.24138143975631018 0 0 0 0 0
    0.5703908683858366 0.8690506870820845 0.0025919098453258517 0.7396262633002861 0
    0.6675867188286383 0.2551902734335281
    0.17256210797552457 0.4434909601251 0.036854970210286185 0.15308873029563125
    0.7393834509698746 0.6974641256332398
id6-15e-WCE-d4-MS |
    0.8233503520495843 0.16660352075872564 0.6390209281180453 0 0 0.008506634690366298
    2.764702271977033e-05 0.030570946240100472 0.7788448843058888 0.2655721017833335
    0.6811514903960553 0.11463286652709542 0 0.3469969420395267 0 0 0 0 0.011537220250767135
    0.6575436567507839 0.8931996375167796 0.12509593498761626 0.780199443020058
    0.01878649551595247 0.6811514903960553 0.36603107486390346
    0.2035166070622215 0.5031439618644498 0.061919010430023944 0.2602677557810063
    0.7694523332560638 0.7439754781723023
id7-baseline |
    0.5541510088221694 0 0.11168569994345093 0 0 0 0 0 0.4397646002259679 0 0 0 0 0 0 0 0 0 0
    0.11366010908482281 0.606644985854407 0 0.44894176095081656 0 0 0
    0.05818954257850464 0.16703526512714947 0 0
    0.5274945225231985 0.4613134670257568
""",
    (
        *per_class(
            "class_iou_frac", CLASSES_19, "official cityscapesScripts pixel-level evaluator"
        ),
        *per_class("category_iou_frac", CATEGORIES_7, _EVALUATED),
        Column("mean_class_iou_frac", note=_EVALUATED),
        Column("mean_category_iou_frac", note=_EVALUATED),
        Column("mean_class_iiou_frac", note=_EVALUATED),
        Column("mean_category_iiou_frac", note=_EVALUATED),
        Column(
            "pixel_accuracy_19_frac",
            note="derived from that file's confMatrix (rows ground truth): ground-truth pixels of "
            "the 19 classes only, prediction among 34",
        ),
        Column(
            "pixel_accuracy_34_frac",
            note="derived from that file's confMatrix: all 34 ids, void included",
        ),
    ),
    source="source repository, evaluationResults/resultPixelLevelSemanticLabeling_unet-{row}.json",
    row_note="",
)

_CE = "stevens2020_cross_entropy"
_RECIPE = Recipe(
    loss="stevens2020_weighted_cross_entropy",
    labels="label_id",
    kept="last",
)
_TABLES_2_AND_3 = replace(_RECIPE, optimizer="adam", learning_rate=1e-2, weight_decay=5e-4)
_SHAPE = {"widths": (8, 16, 32, 64), "skip_first": False, "init": "kaiming_normal"}

_RUN = Variant(
    "unet",
    "stevens2020_run1",
    summary="Four levels, batch norm, transposed convolutions: the step between baseline and "
    "improved; only in the repository.",
    options=_SHAPE,
    num_classes=34,
    preprocessing=UNIT_RANGE,
    report="stevens2020",
    recipe=replace(
        _RECIPE,
        loss=_CE,
        epochs=4,
        notes=("Only the file name tells of this run: id 1, 4 epochs, cross-entropy.",),
    ),
    results=_REPOSITORY["id1-4e-CE"],
)

REPORT = Report(
    key="stevens2020",
    title="Cityscapes Semantic Segmentation challenge",
    authors=("T.S.W. Stevens", "N.A.A. Nijssen"),
    year=2020,
    institution="Eindhoven University of Technology, 5LSM0 Convolutional Neural Networks for "
    "Computer Vision",
    summary="A U-Net of 8 to 128 channels on full-size images. Class weights, batch norm before "
    "the ReLU, transposed convolutions and one more level raise the mean category IoU on the "
    "validation images from 16.7 to 49.6 %, and the benchmark's test images give 52.6 %.",
    code="github tristan-deep/5LSM0_CityscapesDataset @3846ed9",
    variants=(
        Variant(
            "unet",
            "stevens2020_baseline",
            summary="Baseline (id 7): four levels of 8 to 64 channels, no batch norm, bilinear "
            "resize and 1x1 convolution on the way up.",
            options={
                **_SHAPE,
                "norm": False,
                "up": "bilinear",
                "up_kernel_size": 1,
                "up_norm": False,
                "align_corners": True,
            },
            num_classes=34,
            preprocessing=UNIT_RANGE,
            report="stevens2020",
            recipe=replace(
                _TABLES_2_AND_3,
                loss=_CE,
                schedule=StepDecay(every=1, gamma=0.1),
                epochs=3,
                batch_size=4,
                notes=(
                    "The checkpoint's metadata agree: 744 steps an epoch, so the smaller last "
                    "batch was kept (examples/train.py leaves it out: 743); validation loss "
                    "2.0444, 1.9329, 1.9265.",
                ),
            ),
            results=_TABLE_5_VAL["baseline"] + _REPOSITORY["id7-baseline"],
        ),
        Variant(
            "unet",
            "stevens2020_improved",
            summary="Improved (id 3): five levels of 8 to 128 channels, batch norm before the "
            "ReLU, transposed convolutions on the way up, class weights.",
            options={**_SHAPE, "widths": (8, 16, 32, 64, 128)},
            num_classes=34,
            preprocessing=UNIT_RANGE,
            report="stevens2020",
            recipe=replace(
                _TABLES_2_AND_3,
                schedule=MultiStepDecay(milestones=(1, 4, 8), gamma=0.1),
                epochs=10,
                batch_size=3,
                notes=(
                    "The milestones stand in the report alone; the committed train.py has equal "
                    "steps only. That the rate drops after the epoch is a reading.",
                    "Its weights, unet-id3-10e-WCE-d5-MS.pt, could not be obtained.",
                ),
            ),
            results=_TABLE_5_TEST["improved"]
            + _TABLE_5_VAL["improved"]
            + _REPOSITORY["id3-10e-WCE-d5-MS"],
        ),
        _RUN,
        replace(
            _RUN,
            variant="stevens2020_run2",
            summary="As run 1, 10 epochs with class weights: better than the improved model; only "
            "in the repository.",
            recipe=replace(
                _RECIPE,
                epochs=10,
                notes=("Only the file name tells of this run: id 2, 10 epochs, class weights.",),
            ),
            results=_REPOSITORY["id2-10e-WCE"],
        ),
        replace(
            _RUN,
            variant="stevens2020_run5",
            summary="As run 1, 4 epochs with class weights; only in the repository.",
            recipe=replace(
                _RECIPE,
                epochs=4,
                batch_size=4,
                notes=("The settings of the committed train.py; equal steps of the rate.",),
            ),
            results=_REPOSITORY["id5-4e-WCE"],
        ),
        replace(
            _RUN,
            variant="stevens2020_run6",
            summary="As run 1, 15 epochs with class weights and a rate that drops three times; "
            "only in the repository.",
            recipe=replace(
                _RECIPE,
                learning_rate=1e-2,
                epochs=15,
                notes=(
                    "The rate drops to a tenth at three milestones, which ones is not recorded.",
                    "The checkpoint's metadata say gamma 0.3 and step 2, which is stale: the rate "
                    "ends at 1e-5, three tenfold drops from 1e-2.",
                ),
            ),
            results=_REPOSITORY["id6-15e-WCE-d4-MS"],
        ),
    ),
    contradictions=(
        "The Conclusion calls the average of Table V mIoU, but it is a mean over 7 categories -> "
        "kept as mean category IoU; the mean class IoU of the repository stands beside it "
        "(5.82 and 20.41 % on val).",
        "The Conclusion sets the baseline on val (16.7) against the improved model on test "
        "(52.6) -> like for like on val: 16.70 and 49.63 % over categories, 5.82 and 20.41 % over "
        "classes.",
        "The text gives every block that the depth counts a pooling, the code all but the last -> "
        "the code: depth 4 has 3 poolings, depth 5 has 4.",
        "The text puts a softmax after the last layer -> it is part of the loss, the network ends "
        "in logits.",
        "The baseline's way up is described as a bilinear resize with a convolution -> the "
        "code: a 1x1 convolution after the resize, align_corners=True.",
        "The weights are defined for f_i >= 1, the code asks f_i > 1 -> the same weights; the loss "
        "formula leaves out that PyTorch divides by the sum of the pixels' weights.",
        "MultiStepLR stands in Table III, the committed train.py has StepLR -> the table; run 6, "
        "also named MS, ends at a rate that only three milestones give.",
        "The improved model was submitted, run 2 with four levels scores higher on val (52.21 "
        "against 49.63 % over categories, 21.76 against 20.41 % over classes) -> both are here.",
    ),
)
