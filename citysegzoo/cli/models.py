"""``citysegzoo models`` and ``show``: what the zoo has."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from citysegzoo.cli.common import Commands, add_options, is_saved, option, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from citysegzoo.data.labels import LabelSet
    from citysegzoo.factory import ModelInfo
    from citysegzoo.model import SegmentationModel
    from citysegzoo.weights import WeightsRecord


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    models = commands.add_parser("models", help="list the models of the zoo")
    models.add_argument("pattern", nargs="?", help="such as '*resnet50*'")
    models.add_argument("--report", help="only models of this report, such as mei2019")
    models.add_argument("--pretrained", action="store_true", help="only models with weights")
    models.set_defaults(run=_models)

    show = commands.add_parser("show", help="show all that is known of a model")
    show.add_argument(
        "name",
        metavar="NAME",
        help="a name from `citysegzoo models`, a saved model's folder or file, or owner/name",
    )
    add_options(show)
    show.add_argument("--num-classes", type=int, help="build it with this number of classes")
    show.add_argument("--all-results", action="store_true", help="print every reported figure")
    show.set_defaults(run=_show)


def _models(args: argparse.Namespace) -> int:
    from citysegzoo.factory import list_models, model_info

    names = list_models(args.pattern, report=args.report, pretrained=args.pretrained)
    if not names:
        hint = f"; try '*{args.pattern}*'" if args.pattern and "*" not in args.pattern else ""
        raise ValueError(f"no model matches{hint}; `citysegzoo models` lists them all.")
    rows = [("MODEL", "CLASSES", "WEIGHTS", "WHAT IT IS")]
    for name in names:
        info = model_info(name)
        tags = []
        for record in info.weights:
            classes = len(record.labels)
            other = f" ({classes} classes)" if classes != info.num_classes else ""
            tags.append(record.tag + other)
        rows.append((name, str(info.num_classes), ", ".join(tags) or "-", info.summary))
    print_table(rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    from citysegzoo.factory import create_model, model_info
    from citysegzoo.registry import suggestion
    from citysegzoo.weights.checkpoint import build_undrawn

    if is_saved(args.name):
        return _show_saved(args)
    info = model_info(args.name)
    options = dict(option(text) for text in args.option)
    for name in options:
        if name not in info.options:
            hint = suggestion(name, info.options)
            raise TypeError(
                f"model {info.name!r} has no option {name!r}{hint}; `citysegzoo show {info.name}` "
                "lists those that it has."
            )
    model = build_undrawn(lambda: create_model(info.name, num_classes=args.num_classes, **options))
    print(f"{info.name}\n{info.summary}\n")
    rows = [*_composition(model), *_settings(info, options, model)]
    if info.report:
        rows.extend(_report_rows(info))
    print_table(rows)
    if info.results:
        _print_results(info, everything=args.all_results)
    for record in info.weights:
        _print_weights(f"weights {record.tag!r}", record.card, record.labels, _where(record))
    if not info.weights:
        print("\nno trained weights; `citysegzoo models --pretrained` lists the models with some")
    return 0


def _show_saved(args: argparse.Namespace) -> int:
    from citysegzoo.pretrained import load

    if args.option or args.num_classes is not None:
        raise ValueError(f"{args.name} is built already; -o and --num-classes go with a name.")
    model = load(args.name)
    options = model.blueprint.options if model.blueprint else {}
    print(f"{model.name or 'composed model'}\n")
    rows = [(f"  {name}", str(value)) for name, value in options.items()]
    print_table([*_composition(model), ("options", ""), *rows, _input(model)])
    _print_weights("weights", model.card, model.labels, args.name)
    return 0


def _composition(model: SegmentationModel) -> list[tuple[str, str]]:
    def count(*modules: Any) -> str:
        return f"{sum(p.numel() for m in modules for p in m.parameters()):,}"

    encoder, decoder = model.encoder, model.decoder
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return [
        ("parameters", f"{count(model)}, {trainable:,} of them trained"),
        ("encoder", f"{type(encoder).__name__}, {count(encoder)} parameters"),
        ("  channels", ", ".join(map(str, encoder.channels))),
        ("  strides", ", ".join(map(str, encoder.strides))),
        ("decoder", f"{type(decoder).__name__}, {count(decoder)} parameters"),
        ("  gives", f"{decoder.channels} channels at stride {decoder.stride}"),
        ("classifier", f"{model.num_classes} classes, {count(model.classifier)} parameters"),
        ("classes", ", ".join(model.labels.classes)),
    ]


def _settings(
    info: ModelInfo, changed: dict[str, Any], model: SegmentationModel
) -> list[tuple[str, str]]:
    rows = []
    for name, value in {**info.options, **changed}.items():
        origin = "given" if name in changed else "set by the variant" if name in info.preset else ""
        rows.append((f"  {name}", f"{value}{f'  ({origin})' if origin else ''}"))
    return [("options", "" if rows else "none"), *rows, _input(model)]


def _input(model: SegmentationModel) -> tuple[str, str]:
    preprocessing, least = model.preprocessing, model.min_size
    return (
        "input",
        f"{preprocessing.channel_order} in 0..1, minus "
        f"({', '.join(f'{m:.3f}' for m in preprocessing.mean)}), over "
        f"({', '.join(f'{s:.3f}' for s in preprocessing.std)}); any size from {least}x{least}",
    )


def _report_rows(info: ModelInfo) -> list[tuple[str, str]]:
    from citysegzoo.reports import get_report

    report = get_report(info.report or "")
    rows = [("report", f"{report.key}: {report.title}, {', '.join(report.authors)}, {report.year}")]
    if info.recipe:
        rows.append(("recipe", ""))
        for name, text in info.recipe.described().items():
            rows.append((f"  {name.replace('_', ' ')}", text))
        for i, note in enumerate(info.recipe.notes):
            rows.append(("  notes" if i == 0 else "", note))
    return rows


def _print_results(info: ModelInfo, *, everything: bool) -> None:
    shown = [r for r in info.results if everything or r.label is None]
    hidden = len(info.results) - len(shown)
    print("\nprinted results, as the report has them")
    rows = [("METRIC", "OF", "VALUE", "SPLIT", "SOURCE", "REMARK")]
    for r in shown:
        remark = "; ".join(filter(None, (_correction(r.corrected), r.note)))
        rows.append((r.metric, r.label or "all", f"{r.value:g}", r.split, r.source, remark))
    print_table(rows)
    if hidden:
        print(f"and {hidden} figures of single classes: --all-results prints them")


def _correction(corrected: float | None) -> str:
    if corrected is None:
        return ""
    return "wrong" if math.isnan(corrected) else f"should be {corrected:g}"


def _print_weights(title: str, card: Mapping[str, Any], labels: LabelSet, where: str) -> None:
    """What a card says; what it leaves out is not known, and left out here."""
    score = card.get("score", {})
    mean = score.get("mean_iou")
    said = [score.get("metric") or "mean IoU", score.get("split")]
    facts = {
        "trained on": card.get("data"),
        "classes": f"{len(labels)}: {', '.join(labels.classes)}",
        "score": mean is not None and f"{100 * mean:.2f} % {'; '.join(filter(None, said))}",
        **{
            f"  {name}": "-" if iou is None else f"{100 * iou:.1f} %"
            for name, iou in score.get("class_iou", {}).items()
        },
        "licence": card.get("licence"),
        "source": card.get("source"),
        "command": card.get("command"),
        "where": where,
    }
    print(f"\n{title}")
    print_table([(f"  {name}", str(fact)) for name, fact in facts.items() if fact])


def _where(record: WeightsRecord) -> str:
    if record.repository is None:
        return "in the package"
    pin = record.pin
    at = pin["revision"] if pin else "main, not pinned (`citysegzoo weights lock` pins it)"
    return f"{record.repository} on the Hugging Face Hub, {at}"
