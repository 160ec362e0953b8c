"""From a name to a ready network: DeepLabv3 on ResNet-101 from a local folder, beside the peers.

    python tests/benchmarks/bench_load.py

Each loads what it saved itself: citysegzoo.load (checking every byte against its digests), smp's
from_pretrained, and torchvision's network with torch.load. Every load runs in a process of its own,
after its imports and with the file in the page cache; time and the peak memory that the load adds
are that process's. The processes take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

SAVE = """
import sys, torch, citysegzoo, segmentation_models_pytorch as smp
from torchvision.models.segmentation import deeplabv3_resnet101
folder = sys.argv[1]
citysegzoo.create_model("deeplabv3_resnet101").save_pretrained(f"{folder}/ours")
smp.DeepLabV3("resnet101", encoder_weights=None, classes=19).save_pretrained(f"{folder}/smp")
theirs = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=19)
torch.save(theirs.state_dict(), f"{folder}/torchvision.pth")
"""

# Memory that is mapped from a file and can be dropped again is no memory that a load takes.
MEASURE = """
import json, sys, threading, time
def private():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss"))
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) / 1024
{imports}
folder = sys.argv[1]
peak, done = [private()], threading.Event()
before = peak[0]
def watch():
    while not done.wait(0.001):
        peak.append(private())
watcher = threading.Thread(target=watch)
if len(sys.argv) > 2:
    watcher.start()
start = time.perf_counter()
{load}
seconds = time.perf_counter() - start
peak.append(private())
done.set()
if len(sys.argv) > 2:
    watcher.join()
print(json.dumps([seconds, max(peak) - before]))
"""

LOADS = {
    "citysegzoo": (
        "import torch, safetensors.torch, citysegzoo; citysegzoo.load",
        'model = citysegzoo.load(f"{folder}/ours")',
    ),
    "smp": (
        "import torch, segmentation_models_pytorch as smp",
        'model = smp.from_pretrained(f"{folder}/smp").eval()',
    ),
    "torchvision + torch.load": (
        "import torch\nfrom torchvision.models.segmentation import deeplabv3_resnet101",
        "model = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=19)\n"
        'model.load_state_dict(torch.load(f"{folder}/torchvision.pth"))\nmodel.eval()',
    ),
}


def one(name: str, folder: str, *, memory: bool) -> tuple[float, float]:
    """Seconds and added MiB of one load, in a process of its own; watching memory costs time."""
    imports, load = LOADS[name]
    program = MEASURE.format(imports=imports, load=load)
    command = [sys.executable, "-c", program, folder, *(["memory"] if memory else [])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, mebibytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, mebibytes


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", SAVE, folder], check=True, capture_output=True)
        times: dict[str, list[float]] = {name: [] for name in LOADS}
        memory: dict[str, list[float]] = {name: [] for name in LOADS}
        for _ in range(args.rounds):
            for name in LOADS:
                times[name].append(one(name, folder, memory=False)[0])
                memory[name].append(one(name, folder, memory=True)[1])
    for name in LOADS:
        print(
            f"{name:26} {1e3 * statistics.median(times[name]):7.0f} ms "
            f"({1e3 * min(times[name]):.0f} to {1e3 * max(times[name]):.0f}), "
            f"{statistics.median(memory[name]):5.0f} MiB added at the peak"
        )
    for name in list(LOADS)[1:]:
        faster = statistics.median(
            a / b for a, b in zip(times[name], times["citysegzoo"], strict=True)
        )
        less = statistics.median(memory[name]) / statistics.median(memory["citysegzoo"])
        print(f"{faster:.1f} times faster than {name}, with 1/{less:.0f} of the memory")


if __name__ == "__main__":
    main()
