"""What the fast path costs in labels: bf16 and folding beside float32, on CamVid with our weights.

    python tests/benchmarks/bench_precision.py --root camvid [MODEL...]

Each image goes through a Segmenter as users get it, and through one with everything off that
rounds differently. Printed are the share of labelled pixels that get the same class, and the mean
IoU of both. Goal: at least 99.5 % the same, and mean IoU within 0.1.
"""

import argparse

import numpy as np
from torch import Tensor
from tqdm import tqdm

import citysegzoo
from citysegzoo.data import CAMVID_11, CamVid
from citysegzoo.inference import Segmenter
from citysegzoo.metrics import ConfusionMatrix


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=["unet_resnet18.street", "unet.small"])
    parser.add_argument("--root", required=True, help="folder of CamVid")
    parser.add_argument("--split", default="val")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp16", "fp32"])
    args = parser.parse_args()
    for name in args.models:
        model = citysegzoo.create_model(name, pretrained="camvid")
        ways = {
            "float32": Segmenter(model, precision="fp32", fold=False, channels_last=False),
            args.precision: Segmenter(model, precision=args.precision),
        }
        confusions = [ConfusionMatrix(len(CAMVID_11), CAMVID_11.ignore_index) for _ in ways]
        same = pixels = 0
        for image, target in tqdm(CamVid(args.root, args.split), desc=name, disable=None):
            photograph = image.as_subclass(Tensor).permute(1, 2, 0).numpy()
            labels = [segmenter(photograph).labels for segmenter in ways.values()]
            labelled = (target != CAMVID_11.ignore_index).numpy()
            same += int((labels[0] == labels[1])[labelled].sum())
            pixels += int(labelled.sum())
            for confusion, found in zip(confusions, labels, strict=True):
                confusion.update(found, np.asarray(target))
        exact, fast = (100 * c.scores(CAMVID_11).mean_iou for c in confusions)
        print(f"{name}: {100 * same / pixels:.2f} % of the labels the same (goal 99.5)")
        print(
            f"    mean IoU {exact:.3f} in float32, {fast:.3f} in {args.precision} (goal: 0.1 apart)"
        )


if __name__ == "__main__":
    main()
