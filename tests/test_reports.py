"""The reports as data: what they print, in which variant it is, and what of it is corrected."""

import math
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

import citysegzoo
from citysegzoo.data.labels import CITYSCAPES_19, CITYSCAPES_CATEGORIES
from citysegzoo.data.preprocessing import BGR_MEAN, IMAGENET, UNIT_RANGE
from citysegzoo.reports import (
    REPORTS,
    figure_text,
    get_report,
    list_reports,
    overall_iou,
    stevens2020,
    xiang2020,
)
from citysegzoo.reports._tables import CATEGORIES_7, CLASSES_5, CLASSES_19, Column, read_table

VARIANTS = {v.name: v for report in REPORTS.values() for v in report.variants}

# Number and sum of the figures of each model, checked against the sources one by one.
FIGURES = {
    "stevens2020": {
        "unet.stevens2020_baseline": (40, 137.117081),
        "unet.stevens2020_improved": (48, 827.324877),
        "unet.stevens2020_run1": (32, 8.762463),
        "unet.stevens2020_run2": (32, 10.401496),
        "unet.stevens2020_run5": (32, 8.625961),
        "unet.stevens2020_run6": (32, 9.931098),
    },
    "chen2020": {
        "fcn.chen2020_baseline": (7, 2.3735),
        "fcn.chen2020_augmented": (7, 2.8488),
        "fcn.chen2020_augmented_resized": (7, 2.6428),
        "fcn.chen2020_dice": (7, 2.4044),
        "fcn.chen2020_adapted": (7, 2.4538),
        "fcn_resnet50.chen2020_transfer": (7, 2.3879),
        "unet.chen2020": (7, 2.8747),
    },
    "fixman2024": {
        "fcn.fixman2024_baseline": (4, 1844305.52),
        "unet.fixman2024_enhanced": (28, 7329542.783125),
        "unet_swinv2_base.fixman2024_jnet": (76, 8110711.023624),
    },
    "mei2019": {
        "segnet_vgg16.mei2019": (21, 876.3679),
        "deeplabv3_resnet101.mei2019_dl1": (22, 1441.6),
        "deeplabv3_resnet101.mei2019_dl1_long": (23, 1673.65),
        "deeplabv3_resnet101.mei2019_dl2": (22, 1484.09),
        "deeplabv3_resnet101.mei2019_dl3": (22, 1349.4),
        "deeplabv3_resnet101.mei2019_dl4": (22, 1318.22),
    },
    "xiang2020": {
        "fcn.xiang2020_baseline": (35, 527.894311),
        "fcn.xiang2020_dice": (29, 373.805524),
        "fcn.xiang2020_weighted": (29, 385.035875),
        "fcn.xiang2020_augmented": (9, 465.12),
        "unet.xiang2020": (28, 449.142681),
        "fcn_resnet50.xiang2020": (28, 338.800622),
        "aspp_resnet50.xiang2020": (7, 462.6),
        "aspp_resnet101.xiang2020": (0, 0.0),
        "unet_aspp.xiang2020": (0, 0.0),
        "deeplabv3_resnet50.xiang2020": (7, 459.9),
    },
}


def figures(name, metric, *, label=None, split="val", source=""):
    return [
        r
        for r in VARIANTS[name].results
        if (r.metric, r.label, r.split) == (metric, label, split) and source in r.source
    ]


def figure(name, metric, **where):
    (result,) = figures(name, metric, **where)
    return result


def test_reports_are_listed_in_order():
    assert list_reports() == ["stevens2020", "chen2020", "fixman2024", "mei2019", "xiang2020"]
    assert all(get_report(key).key == key for key in list_reports())


def test_unknown_report_names_the_nearest():
    with pytest.raises(ValueError, match=r"there is no report 'mei2018'.*'mei2019'"):
        get_report("mei2018")
    with pytest.raises(TypeError, match="a report is asked for by its name, a string, not 5"):
        get_report(5)


def test_models_stand_side_by_side_by_validation_figures():
    improved = overall_iou(citysegzoo.model_info("unet.stevens2020_improved").results)
    assert (improved.split, improved.value) == ("val", 49.6282)  # test's is printed first
    coarse = overall_iou(citysegzoo.model_info("fcn.fixman2024_baseline").results)
    assert figure_text(coarse) == "mean of images IoU 15.64"
    assert overall_iou(citysegzoo.model_info("unet.small").results) is None


def test_every_figure_is_there():
    found = {
        key: {
            v.name: (len(v.results), round(math.fsum(r.value for r in v.results), 6))
            for v in report.variants
        }
        for key, report in REPORTS.items()
    }
    assert found == FIGURES
    assert sum(number for models in found.values() for number, _ in models.values()) == 677


def test_variants_carry_their_report_and_preprocessing():
    expected = {
        "stevens2020": (34, UNIT_RANGE),
        "chen2020": (34, BGR_MEAN),
        "fixman2024": (34, UNIT_RANGE),
        "mei2019": (19, IMAGENET),
        "xiang2020": (19, IMAGENET),
    }
    for key, report in REPORTS.items():
        for variant in report.variants:
            assert variant.variant.startswith(key)
            assert variant.report == key
            assert (variant.num_classes, variant.preprocessing) == expected[key]
            assert variant.summary.endswith(".")
            assert variant.recipe is not None
            assert variant.recipe.loss


@pytest.mark.parametrize(
    ("name", "metric", "where", "value"),
    [
        # stevens2020: Table V and the evaluator's files
        (
            "unet.stevens2020_improved",
            "category_iou_pct",
            {"label": "human", "split": "test"},
            5.89255,
        ),
        ("unet.stevens2020_improved", "mean_category_iou_pct", {"split": "test"}, 52.5512),
        ("unet.stevens2020_baseline", "category_iou_pct", {"label": "nature"}, 44.8942),
        ("unet.stevens2020_improved", "category_iou_pct", {"label": "vehicle"}, 42.6824),
        (
            "unet.stevens2020_improved",
            "class_iou_frac",
            {"label": "wall"},
            1.190727093685217e-06,
        ),
        ("unet.stevens2020_run2", "mean_class_iou_frac", {}, 0.21756188801308948),
        ("unet.stevens2020_run6", "pixel_accuracy_34_frac", {}, 0.7439754781723023),
        # chen2020: Table 4
        ("fcn.chen2020_adapted", "class_iou_frac", {"label": "car"}, 0.5278),
        ("fcn.chen2020_augmented", "mean_class_iou_frac", {}, 0.2589),
        ("fcn.chen2020_augmented_resized", "pixel_accuracy_frac", {}, 0.7728),
        ("fcn.chen2020_dice", "class_iou_frac", {"label": "bicycle"}, 0.0),
        ("unet.chen2020", "class_iou_frac", {"label": "traffic sign"}, 0.3192),
        # fixman2024: scores, winners of the sweep
        (
            "fcn.fixman2024_baseline",
            "cce_sum_per_image",
            {"split": "val(coarse masks)"},
            1844272,
        ),
        (
            "unet_swinv2_base.fixman2024_jnet",
            "iou_score_repo",
            {"split": "val(coarse masks)"},
            28.17,
        ),
        (
            "unet.fixman2024_enhanced",
            "sweep_iiou_score_repo",
            {"split": "val(coarse masks), last sweep round"},
            20.30,
        ),
        # mei2019: Tables 1 and 2, text, Abstract
        ("segnet_vgg16.mei2019", "class_iou_pct", {"label": "rider"}, 0.01),
        ("segnet_vgg16.mei2019", "mean_class_iou_frac", {"source": "Section 5.2"}, 0.4379),
        ("deeplabv3_resnet101.mei2019_dl4", "class_iou_pct", {"label": "train"}, 18.83),
        ("deeplabv3_resnet101.mei2019_dl2", "mean_class_iou_pct", {"split": "train"}, 70.97),
        ("deeplabv3_resnet101.mei2019_dl1_long", "mean_class_iou_pct", {"source": "Abs"}, 72.53),
        # xiang2020: Tables 5 and 6, later revision, repository
        ("aspp_resnet50.xiang2020", "class_iou_pct", {"label": "car"}, 82.2),
        ("deeplabv3_resnet50.xiang2020", "mean_class_iou_pct", {}, 49.9),
        ("fcn.xiang2020_dice", "class_iou_pct", {"label": "building"}, 71.0),
        ("unet.xiang2020", "pixel_accuracy_pct", {}, 91.1),
        ("fcn.xiang2020_weighted", "mean_class_iou_pct", {"source": "revision"}, 32.4),
        ("fcn_resnet50.xiang2020", "class_iou_frac", {"label": "bus"}, 0.000187122394),
    ],
)
def test_printed_values(name, metric, where, value):
    assert figure(name, metric, **where).value == value


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("unet.fixman2024_enhanced", [12, 6, 3]),
        ("unet_swinv2_base.fixman2024_jnet", [36, 18, 9, 4, 2]),
    ],
)
def test_sweep_keeps_the_better_half(name, rounds):
    losses = [{} for _ in rounds]
    for r in figures(name, "sweep_val_loss", split="val(coarse masks)", source="sweep_results"):
        setting, _, number = r.note.partition("; round ")
        losses[int(number)][setting] = r.value
    assert [len(of_round) for of_round in losses] == rounds
    best = sorted(losses[0], key=losses[0].get)[: rounds[1]]
    assert set(losses[1]) == set(best)


def test_sweep_winner_has_no_dropout():
    swept = figures(
        "unet_swinv2_base.fixman2024_jnet",
        "sweep_val_loss",
        split="val(coarse masks)",
        source="Swin2_sweep_results.csv",
    )
    best = min((r for r in swept if r.note.endswith("round 4")), key=lambda r: r.value)
    assert best.note == "lr=0.001 gamma=1.0 wd=0.0001 dropout=0.0; round 4"
    assert best.value == 78946.600361


def test_means_are_those_of_the_classes():
    """A mean, or its correction, is the mean of the classes that stand in the same table."""
    means_of = {
        "mean_category_iou_pct": ("category_iou_pct", 7),
        "mean_category_iou_frac": ("category_iou_frac", 7),
        "mean_class_iou_pct": ("class_iou_pct", 19),
        "mean_class_iou_frac": ("class_iou_frac", 19),
        "mean_of_5_listed_classes_iou_pct": ("class_iou_pct", 5),
    }
    checked = Counter()
    for variant in VARIANTS.values():
        tables = defaultdict(lambda: defaultdict(list))
        for result in variant.results:
            tables[result.source, result.split][result.metric].append(result)
        for table in tables.values():
            for metric, (of, number) in means_of.items():
                if len(table[of]) != number or not table[metric]:
                    continue
                (printed,) = table[metric]
                mean = sum(r.value for r in table[of]) / number
                value = printed.value
                if metric == "mean_class_iou_pct" and printed.corrected is not None:
                    assert abs(mean - value) > 0.02
                    value = printed.corrected
                assert mean == pytest.approx(value, abs=1e-6 if "frac" in metric else 0.01)
                checked[metric] += 1
    assert checked == {
        "mean_category_iou_pct": 3,
        "mean_category_iou_frac": 6,
        "mean_class_iou_pct": 6,
        "mean_class_iou_frac": 6 + 5,
        "mean_of_5_listed_classes_iou_pct": 4,
    }


def test_printed_percentages_are_those_of_the_repositories():
    """Tables that print what a file of the repository has in full agree with it."""
    pairs = {
        "category_iou_pct": "category_iou_frac",
        "mean_category_iou_pct": "mean_category_iou_frac",
        "class_iou_pct": "class_iou_frac",
        "mean_class_iou_pct": "mean_class_iou_frac",
        "pixel_accuracy_pct": "pixel_accuracy_frac",
    }
    checked = Counter()
    for key, tolerance in {"stevens2020": 5.1e-5, "xiang2020": 0.1}.items():
        for variant in REPORTS[key].variants:
            full = {
                (r.metric, r.label): r.value for r in variant.results if r.metric.endswith("_frac")
            }
            for result in variant.results:
                other = full.get((pairs.get(result.metric), result.label))
                if result.split == "val" and other is not None:
                    assert result.value == pytest.approx(100 * other, abs=tolerance)
                    checked[key] += 1
    # 2 rows of 8; five classes 6 times, 6 means in Table 5 and its revision, 5 accuracies.
    assert checked == {"stevens2020": 16, "xiang2020": 41}


def test_corrections():
    corrected = {
        (v.name, r.source, r.split, r.label or r.metric): (r.value, r.corrected)
        for v in VARIANTS.values()
        for r in v.results
        if r.corrected is not None and not math.isnan(r.corrected)
    }
    mean, mean_of_5 = "mean_class_iou_pct", "mean_of_5_listed_classes_iou_pct"
    lower = "Table 5 (lower)"
    assert corrected == {
        ("deeplabv3_resnet101.mei2019_dl1", "Table 1", "val", mean): (65.43, 65.34),
        ("deeplabv3_resnet101.mei2019_dl1", "Table 2", "val", mean): (65.43, 65.34),
        ("deeplabv3_resnet101.mei2019_dl3", "Table 2", "val", mean): (63.40, 60.99),
        ("fcn.xiang2020_baseline", lower, "val", mean_of_5): (35.28, 25.41),
        ("fcn.xiang2020_dice", lower, "val", mean_of_5): (41.72, 29.57),
        ("fcn.xiang2020_weighted", lower, "val", mean_of_5): (43.62, 32.40),
        ("fcn.xiang2020_augmented", lower, "val", mean_of_5): (43.62, 31.3),
        ("fcn.xiang2020_augmented", "Table 6", "val", "pixel_accuracy_pct"): (86.0, 86.1),
    }


def test_impossible_and_copied_figures_have_no_true_value():
    unknown = {
        (v.name, r.label)
        for v in VARIANTS.values()
        for r in v.results
        if r.corrected is not None and math.isnan(r.corrected)
    }
    assert unknown == {("fcn_resnet50.chen2020_transfer", "person")} | {
        ("fcn.xiang2020_augmented", name) for name in CLASSES_5
    }
    person = figure("fcn_resnet50.chen2020_transfer", "class_iou_frac", label="person")
    assert person.value == 1.3824
    assert "IMPOSSIBLE" in person.note
    # Nothing else is out of range.
    for variant in VARIANTS.values():
        for result in variant.results:
            if result is not person:
                top = {"pct": 100, "frac": 1}.get(result.metric.rpartition("_")[2], math.inf)
                assert 0 <= result.value <= top


@pytest.mark.parametrize(
    ("key", "number", "words"),
    [
        ("stevens2020", 8, ["mean over 7 categories", "16.70 and 49.63", "52.21"]),
        ("chen2020", 13, ["1.3824", "7,861,512", "average pooling", "conv5_2", "Section 4.2"]),
        ("fixman2024", 15, ["--no-resize", "20,000", "0.97", "95,024", "1,008,782.5", "294,165"]),
        ("mei2019", 9, ["65.34", "63.40", "segnet_basic", "expansion 4", "no other model"]),
        ("xiang2020", 15, ["29.57", "86.1", "ResNet-101", "Xavier", "void pixels", "XXX"]),
    ],
)
def test_contradictions_are_told_and_resolved(key, number, words):
    contradictions = get_report(key).contradictions
    assert len(contradictions) == number
    for text in contradictions:
        claim, _, resolution = text.partition(" -> ")
        assert claim
        assert resolution
    everything = " ".join(contradictions)
    assert [word for word in words if word not in everything] == []


def test_encoder_weights_are_torchvisions():
    weights = {
        name: variant.recipe.encoder_weights
        for name, variant in VARIANTS.items()
        if variant.recipe.encoder_weights
    }
    assert weights == {
        "fcn_resnet50.chen2020_transfer": "resnet50.tv_in1k",
        "unet_swinv2_base.fixman2024_jnet": "swinv2_base_window8_256.ms_in1k",
        "segnet_vgg16.mei2019": "vgg16.tv_in1k",
        **{
            f"deeplabv3_resnet101.mei2019_{run}": "resnet101.tv_in1k"
            for run in ("dl1", "dl1_long", "dl2", "dl3", "dl4")
        },
        "fcn_resnet50.xiang2020": "resnet50.tv_in1k",
        "aspp_resnet50.xiang2020": "resnet50.tv_in1k",
        "aspp_resnet101.xiang2020": "resnet101.tv_in1k",
        "deeplabv3_resnet50.xiang2020": "resnet50.tv_in1k",
    }


def test_pyramids_differ_as_the_report_says():
    rates = {
        run: VARIANTS[f"deeplabv3_resnet101.mei2019_{run}"].options["aspp_rates"]
        for run in ("dl1", "dl2", "dl3", "dl4")
    }
    assert rates == {
        "dl1": (6, 12, 18),
        "dl2": (3, 6, 9),
        "dl3": (8, 16, 24),
        "dl4": (6, 12, 18, 24),
    }
    kernels = [v.name for v in VARIANTS.values() if v.options.get("aspp_kernel_size") == 4]
    assert kernels == ["deeplabv3_resnet101.mei2019_dl3"]


def test_pixel_counts_give_the_class_weights():
    counts = stevens2020.PIXEL_COUNTS
    assert len(counts) == 34
    assert sum(counts) == 2975 * 1024 * 2048
    weights = [max(1.0, math.log(0.15 * sum(counts) / count)) for count in counts]
    assert weights[0] == pytest.approx(7.191088, abs=1e-6)
    assert weights[7] == 1
    assert weights[33] == pytest.approx(3.712017, abs=1e-6)

    counts = xiang2020.PIXEL_COUNTS
    weights = [5 * math.sqrt(min(counts) / count) for count in counts]
    assert len(weights) == 19
    assert weights[:3] == pytest.approx([0.2527, 0.7413, 0.3690], abs=5e-5)
    assert weights[17:] == pytest.approx([5.0, 2.3458], abs=5e-5)


def test_labels_are_those_of_the_data():
    assert CITYSCAPES_19.classes == CLASSES_19
    assert set(CITYSCAPES_CATEGORIES.classes) == set(CATEGORIES_7)
    labels = {r.label for v in VARIANTS.values() for r in v.results} - {None}
    assert labels == set(CLASSES_19) | set(CATEGORIES_7)


def test_summary_reads_well():
    for report in REPORTS.values():
        text = str(report)
        assert max(map(len, text.splitlines())) <= 100
        words = " ".join(text.split())
        for part in (report.title, *report.authors, str(report.year), *report.contradictions):
            assert part in words
        assert all(variant.name in text for variant in report.variants)
    summary = str(get_report("mei2019"))
    assert "Table 1, val: mean class IoU 65.43 % (corrected: 65.34 %)." in summary
    assert "Code: none found" in summary
    assert "cce sum per image 1,844,272" in " ".join(str(get_report("fixman2024")).split())
    assert "github tristan-deep/5LSM0_CityscapesDataset @3846ed9" in str(get_report("stevens2020"))


def test_read_table():
    columns = (Column("a", note="of all"), Column("b", "car"), Column("c", split="train"))
    table = read_table(
        """
first row | 1 2.5
            3
other     | 4 - 6
""",
        columns,
        source="file-{row}",
        notes={("other", "a"): "odd"},
        corrected={("first row", "train"): 7},
    )
    first, car, train = table["first row"]
    assert (first.metric, first.value, first.label, first.split) == ("a", 1, None, "val")
    assert (first.source, first.note) == ("file-first row", 'row "first row"; of all')
    assert (car.label, car.value, car.corrected) == ("car", 2.5, None)
    assert (train.split, train.value, train.corrected) == ("train", 3, 7)
    assert [(r.metric, r.value) for r in table["other"]] == [("a", 4), ("c", 6)]
    assert table["other"][0].note == 'row "other"; of all; odd'


def test_read_table_refuses_what_does_not_fit():
    columns = (Column("a"), Column("a", "car"))
    with pytest.raises(ValueError, match=r"row 'x' has 1 figures for 2 columns"):
        read_table("x | 1", columns, source="T")
    for cell in [("y", "car"), ("x", "bus"), ("x", "a")]:
        with pytest.raises(ValueError, match="is not one cell"):
            read_table("x | 1 2", columns, source="T", notes={cell: "?"})
        with pytest.raises(ValueError, match="is not one cell"):
            read_table("x | 1 2", columns, source="T", corrected={cell: 1.0})


def test_reports_import_no_model_code():
    code = (
        "import sys, citysegzoo.reports\n"
        "print(sorted(m for m in sys.modules if m.startswith(('citysegzoo.', 'timm', "
        "'torchvision'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout
    for module in ("models", "encoders", "decoders", "weights", "inference", "model"):
        assert f"'citysegzoo.{module}'" not in loaded
    assert "'timm" not in loaded
    assert "'torchvision" not in loaded
    assert "'citysegzoo.reports.mei2019'" in loaded
