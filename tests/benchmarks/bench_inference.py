"""From a decoded photograph to its label map: how long, and what each part of the fast path gives.

    python tests/benchmarks/bench_inference.py [NETWORK...] [--size H W]

Networks have random weights. "plain" is what a user of a model writes without this package:
preprocess, forward, argmax, float32, contiguous; "smp" is that with segmentation-models-pytorch's
network, whose layers and weights the zoo's has too. Each part is on alone, then all are together.
Logits are enlarged as a whole in "plain" and "smp" alone. Freed memory is kept for the time of one
photograph and given back after it, so that nothing else profits.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

import citysegzoo
from citysegzoo.benchmark import count_flops, in_turn, print_times, ratio
from citysegzoo.inference import Segmenter
from citysegzoo.memory import freed_memory_kept
from citysegzoo.peers import twin

CLASSES = 19
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet_resnet50": ("Unet", {"encoder_name": "resnet50"}),
    "segformer_b0": ("Segformer", {"encoder_name": "mit_b0"}),
    "deeplabv3_resnet101": (
        "DeepLabV3",
        {"encoder_name": "resnet101", "encoder_output_stride": 16},
    ),
}
UNSEEN = {"deeplabv3_resnet101": {"output_stride": 16}}
OFF = {"fold": False, "channels_last": False, "precision": "fp32", "device": "cpu"}
PARTS: dict[str, dict[str, Any]] = {
    "fused labels alone": {},
    "and folded": {"fold": True},
    "and channels last": {"channels_last": True},
    "and bf16": {"precision": "bf16"},
    "all": {"fold": True, "channels_last": True, "precision": "bf16"},
    "all but bf16": {"fold": True, "channels_last": True},
}


def plain(
    model: torch.nn.Module,
    pixels: np.ndarray,
    without_gradients: Callable[[], AbstractContextManager[Any]] = torch.no_grad,
) -> np.ndarray:
    """The usual way."""
    with without_gradients():
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        return model(citysegzoo.data.IMAGENET(image)).argmax(1)[0].to(torch.uint8).numpy()


def with_memory_kept(run: Callable[[], np.ndarray]) -> np.ndarray:
    with freed_memory_kept():
        return run()


def runs_of(
    name: str, pixels: np.ndarray, *, compiled: bool, peers: bool
) -> dict[str, Callable[[], np.ndarray]]:
    """Every way to a label map."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    kind, options = NETWORKS[name]
    peer = getattr(smp, kind)(encoder_weights=None, classes=CLASSES, **options).eval()
    model, _ = twin(peer, "smp", UNSEEN.get(name))
    print(f"{count_flops(model, pixels.shape[:2]) / 1e9:.0f} GFLOPs")
    runs: dict[str, Callable[[], np.ndarray]] = {"plain": lambda: plain(model, pixels)}
    if peers:
        runs["smp"] = lambda: plain(peer, pixels)
    runs["inference mode alone"] = lambda: plain(model, pixels, torch.inference_mode)
    for part, options in PARTS.items():
        segmenter = Segmenter(model, **{**OFF, **options})
        runs[part] = lambda segmenter=segmenter: segmenter(pixels).labels
    for part in ("all", "all but bf16"):
        segmenter = Segmenter(model, **{**OFF, **PARTS[part]})
        runs[f"{part}, memory kept"] = lambda segmenter=segmenter: with_memory_kept(
            lambda: segmenter(pixels).labels
        )
    if compiled:
        for part in ("all", "all but bf16"):
            segmenter = Segmenter(model, **{**OFF, **PARTS[part]}, compile=True)
            runs[f"{part}, compiled"] = lambda segmenter=segmenter: segmenter(pixels).labels
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--no-peers", action="store_true", help="leave smp out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pixels = np.random.default_rng(0).integers(0, 256, (*arguments.size, 3), dtype=np.uint8)
    for name in arguments.networks or NETWORKS:
        print(f"\n{name}, {arguments.size[0]}x{arguments.size[1]}")
        runs = runs_of(name, pixels, compiled=arguments.compile, peers=not arguments.no_peers)
        times, results = in_turn(runs, arguments.rounds)
        print_times(times)
        for part in list(runs)[1:]:
            same = (results[part] == results["plain"]).mean()
            faster = f"{ratio(times, 'plain', part):.2f} times as fast as plain"
            print(f"{part}: {faster}, {same:.3%} of the labels the same")
            if "smp" in runs and part != "smp":
                print(f"    {ratio(times, 'smp', part):.2f} times as fast as smp")


if __name__ == "__main__":
    main()
