"""mei2019's question: which atrous rates and kernels suit DeepLabv3's pyramid?

    python examples/compare_atrous_rates.py --data cityscapes --root cityscapes --output runs/rates

Trains DL-1 to DL-4 by the recipe of the report, one after the other, and writes results.md and
results.png. Given again, the command goes on where it was stopped.

On a small machine the same four pyramids go on a smaller encoder, by train.py's own recipe:

    python examples/compare_atrous_rates.py --data camvid --root camvid --output runs/rates18 \
        --model deeplabv3_resnet18 --epochs 20
"""

from __future__ import annotations

import sweep

import citysegzoo

REPORTED = citysegzoo.list_models("deeplabv3_resnet101.mei2019_dl?")


def arguments(base: str) -> dict[str, list[str]]:
    """What train.py gets for each network of the report, or for its pyramid on another base."""
    runs = {}
    for name in REPORTED:
        info = citysegzoo.model_info(name)
        if base == info.architecture:
            words = ["--model", name]
        else:
            words = ["--model", base]
            for option, value in info.preset.items():
                words += ["--option", f"{option}={value!r}"]
        runs[title(name)] = words
    return runs


def title(name: str) -> str:
    """The report's own name: DL-1 for deeplabv3_resnet101.mei2019_dl1."""
    return name.rpartition("_")[2].upper().replace("DL", "DL-")


def measured(runs: list[sweep.Run]) -> str:
    head = ["network", "rates", "kernel", "parameters", "mean IoU, %", "epoch"]
    rows = []
    for run in runs:
        options = run.model.blueprint.options
        kernel, count = options["aspp_kernel_size"], sum(p.numel() for p in run.model.parameters())
        rows.append(
            [
                run.name,
                ", ".join(map(str, options["aspp_rates"])),
                f"{kernel}x{kernel}",
                f"{count:,}",
                sweep.percent(run.kept["mean_iou"]),
                f"{run.kept['epoch']:g}",
            ]
        )
    return sweep.table(head, rows)


def printed() -> str:
    """The report's own figures, with what its table of classes bears out where that differs."""
    rows = []
    for name in REPORTED:
        result = next(
            r
            for r in citysegzoo.model_info(name).results
            if r.metric == "mean_class_iou_pct" and r.label is None and r.split == "val"
        )
        right = result.value if result.corrected is None else result.corrected
        rows.append([title(name), f"{result.value:.2f}", f"{right:.2f}"])
    return sweep.table(["network", "printed, %", "mean of its classes, %"], rows)


def main(argv: list[str] | None = None) -> None:
    p = sweep.parser(__doc__)
    base = citysegzoo.model_info(REPORTED[0]).architecture
    p.add_argument("--model", default=base, help=f"what the pyramids are put on [{base}]")
    args = p.parse_args(argv)
    runs = sweep.run_all(arguments(args.model), args)
    text = f"""\
# Atrous rates: {args.model}

## Measured here

{sweep.conditions(runs, args)}

{measured(runs)}

![Mean IoU by epoch](results.png)

## Printed in mei2019, not measured here

Cityscapes val, DeepLabv3 on ResNet-101, 40 epochs. Not to be set against the table above unless
that is the same data, network and recipe.

{printed()}
"""
    sweep.write(args.output, text, runs)


if __name__ == "__main__":
    sweep.run_script("compare_atrous_rates.py", main)
