"""How long a label map of 1024x2048 takes from logits of 19 classes, without and with the detour.

    python tests/benchmarks/bench_label_map.py

Beside the upsampled logits as a whole and in blocks of rows (which differ from the whole in the
last bits). Scenes are coarse random fields, in which 3 to 5 % of the cells are mixed at stride 8.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from citysegzoo.benchmark import in_turn, print_times, ratio
from citysegzoo.inference.label_map import upsampled_labels

SIZE = (1024, 2048)
CLASSES = 19
# Of the label map's time: at least so many times less than that of the whole.
GOALS = {"scene": 20.0, "noise": 6.0}


def draw(kind: str, height: int, width: int) -> Tensor:
    """Logits ``(1, 19, height, width)``."""
    generator = torch.Generator().manual_seed(0)
    if kind == "noise":
        return torch.randn(1, CLASSES, height, width, generator=generator)
    coarse = 4 * torch.randn(1, CLASSES, 3, 5, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic")


def mixed_share(logits: Tensor) -> float:
    """Share of the cells whose corners have several leading classes."""
    leaders = logits.argmax(1)
    parts = [leaders[:, :-1, 1:], leaders[:, 1:, :-1], leaders[:, 1:, 1:]]
    mixed = torch.stack([part != leaders[:, :-1, :-1] for part in parts])
    return float(mixed.any(0).float().mean())


def whole(logits: Tensor) -> Tensor:
    """The detour."""
    return F.interpolate(logits.float(), SIZE, mode="bilinear").argmax(1)


def row_blocks(logits: Tensor) -> Tensor:
    """Blocks of rows, each upsampled with a row above and below to spare."""
    rows, stride = 4, SIZE[0] // logits.shape[2]
    labels = torch.empty(SIZE, dtype=torch.uint8)
    padded = F.pad(logits.float(), (0, 0, 1, 1), mode="replicate")
    for start in range(0, logits.shape[2], rows):
        block = padded[:, :, start : start + rows + 2]
        size = (block.shape[2] * stride, SIZE[1])
        resized = F.interpolate(block, size, mode="bilinear")[0, :, stride:-stride]
        labels[start * stride : (start + rows) * stride] = resized.max(0)[1]
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for kind, goal in GOALS.items():
        for stride in (8, 4, 2, 16):
            logits = draw(kind, SIZE[0] // stride, SIZE[1] // stride)
            print(f"\n{kind}, stride {stride}, {mixed_share(logits):.1%} of the cells mixed")
            half = logits.bfloat16()
            last = logits.contiguous(memory_format=torch.channels_last)
            runs = {
                "whole": lambda x=logits: whole(x),
                "row blocks": lambda x=logits: row_blocks(x),
                "label map": lambda x=logits: upsampled_labels(x, SIZE),
                "label map, bfloat16": lambda x=half: upsampled_labels(x, SIZE),
                "whole, channels last": lambda x=last: whole(x),
                "label map, channels last": lambda x=last: upsampled_labels(x, SIZE),
            }
            times, results = in_turn(runs, arguments.rounds)
            assert (results["label map"] == results["whole"]).all()
            assert (results["label map, channels last"] == results["whole, channels last"]).all()
            print_times(times)
            print(
                f"{ratio(times, 'whole', 'label map'):.1f} times faster (goal {goal:.0f}), least "
                f"against least {min(times['whole']) / min(times['label map']):.1f}; channels last "
                f"{ratio(times, 'whole, channels last', 'label map, channels last'):.1f}"
            )


if __name__ == "__main__":
    main()
