"""Whole processes, beside the peers: an import, and one photograph from a saved network.

    python tests/benchmarks/bench_process.py [--rounds N]

Every run is a process of its own, from its start to its end; they take turns. The network is
DeepLabv3 on ResNet-101 with random weights, each library's saved by itself, in the page cache;
the photograph is a PNG file. Memory is the peak resident set that the process reports of itself
(a peak that its parent were told would begin at the parent's own). ``import citysegzoo`` imports
nothing else until a name is used; "all that segments" has used those that the second table needs.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from functools import partial

from citysegzoo.benchmark import Times, Timing, in_turn, ratio

SAVE = """
import sys, torch, citysegzoo, segmentation_models_pytorch as smp
from PIL import Image
from torchvision.models.segmentation import deeplabv3_resnet101
folder = sys.argv[1]
street = Image.open(citysegzoo.data.DEMO_IMAGE).convert("RGB").resize((512, 256))
street.save(f"{folder}/street.png")
citysegzoo.create_model("deeplabv3_resnet101").save_pretrained(f"{folder}/ours")
theirs = smp.DeepLabV3("resnet101", encoder_weights=None, classes=19)
torch.save(theirs.state_dict(), f"{folder}/smp.pth")
theirs = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=19)
torch.save(theirs.state_dict(), f"{folder}/torchvision.pth")
"""

PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

IMPORTS = {
    "citysegzoo": "import citysegzoo",
    "citysegzoo, all that segments": "import citysegzoo; citysegzoo.load, citysegzoo.inference",
    "torch": "import torch",
    "torchvision": "import torchvision",
    "smp": "import segmentation_models_pytorch",
}

# What a user of a peer writes; "{build}" and "{logits}" are what differs.
USUAL = """
import sys, numpy as np, torch
from PIL import Image
{build}
model.load_state_dict(torch.load(f"{{sys.argv[1]}}/{name}.pth"))
model.eval()
pixels = np.array(Image.open(f"{{sys.argv[1]}}/street.png"))
mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
images = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
with torch.no_grad():
    logits = model((images.float() / 255 - mean) / deviation){logits}
    labels = logits.argmax(1)[0].to(torch.uint8).numpy()
assert labels.shape == (256, 512)
"""

PROCESSES = {
    "citysegzoo": """
import sys, citysegzoo
from citysegzoo.inference import Segmenter
segmenter = Segmenter(citysegzoo.load(f"{sys.argv[1]}/ours"), device="cpu")
labels = segmenter(f"{sys.argv[1]}/street.png").labels
assert labels.shape == (256, 512)
""",
    "smp": USUAL.format(
        name="smp",
        build="import segmentation_models_pytorch as smp\n"
        'model = smp.DeepLabV3("resnet101", encoder_weights=None, classes=19)',
        logits="",
    ),
    "torchvision": USUAL.format(
        name="torchvision",
        build="from torchvision.models.segmentation import deeplabv3_resnet101\n"
        "model = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=19)",
        logits='["out"]',
    ),
}


def run(code: str, peaks: list[float], *arguments: str) -> None:
    """A fresh process; its peak memory, in MB of 1e6 bytes, is added to ``peaks``."""
    command = [sys.executable, "-c", code + PEAK, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peaks.append(int(done.stdout.split()[-1]) * 1024 / 1e6)


def measure(programs: dict[str, str], rounds: int, *arguments: str) -> tuple[Times, Times]:
    """Seconds and peak megabytes of every program, taking turns."""
    peaks: Times = {name: [] for name in programs}
    runs = {name: partial(run, code, peaks[name], *arguments) for name, code in programs.items()}
    for each in runs.values():  # files into the page cache, bytecode written
        each()
    for taken in peaks.values():
        taken.clear()
    times, _ = in_turn(runs, rounds, warm=False)
    return times, peaks


def print_table(times: Times, peaks: Times) -> None:
    for name, taken in times.items():
        print(f"{name:30} {Timing.of(taken)!s:38}  {statistics.median(peaks[name]):6.0f} MB")


def print_goal(what: str, values: Times, ours: str, peer: str, goal: float) -> None:
    """The ratio to a peer, median of the rounds, and whether it is what it should be."""
    share = ratio(values, ours, peer)
    verdict = "reached" if share <= goal else "MISSED"
    print(f"{what}, {ours} / {peer}: {share:.3f} (goal: at most {goal:.3f}, {verdict})")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("import, in a fresh process")
    times, peaks = measure(IMPORTS, args.rounds)
    print_table(times, peaks)
    for ours in list(IMPORTS)[:2]:
        print_goal("time", times, ours, "torch", 1.05)
        print_goal("time", times, ours, "smp", 0.5)
    print("\nimport, load DeepLabv3 on ResNet-101 and segment a photograph of 256x512")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", SAVE, folder], check=True, capture_output=True)
        times, peaks = measure(PROCESSES, args.rounds, folder)
    print_table(times, peaks)
    for peer in ("smp", "torchvision"):
        print_goal("time", times, "citysegzoo", peer, 1 / 2)
        print_goal("memory", peaks, "citysegzoo", peer, 2 / 3)


if __name__ == "__main__":
    main()
