"""How fast a model is, how much memory it takes, and both beside other libraries.

Whatever is compared takes turns, A B A B ..., each right after a run of its own that is not timed,
so that what else the machine does falls on all alike; ratios are medians over the rounds.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from citysegzoo.arguments import check_positive, check_size
from citysegzoo.base import MIN_SIZE
from citysegzoo.data import DEMO_IMAGE
from citysegzoo.factory import create_model, model_info
from citysegzoo.hardware import find_device
from citysegzoo.inference import Segmenter
from citysegzoo.inference.network import Network, Precision, find_dtype
from citysegzoo.model import SegmentationModel
from citysegzoo.peers import PEERS, Pixels, twin, usual
from citysegzoo.registry import suggestion

Times = dict[str, list[float]]

_PEAK = "import sys; from citysegzoo.benchmark import print_peak; print_peak(*sys.argv[1:])"
_DTYPES: dict[torch.dtype, Precision] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


def in_turn(
    runs: Mapping[str, Callable[[], Any]], rounds: int, *, warm: bool = True
) -> tuple[Times, dict[str, Any]]:
    """Seconds of every run, and its last result.

    Args:
        runs: What is timed, by name. The runs take turns.
        rounds: How often each is timed.
        warm: Whether each time has one before it that does not count, so that none is measured in
            the memory that another one left behind. A fresh process needs none.
    """
    times: Times = {name: [] for name in runs}
    results = {}
    for _ in range(rounds):
        for name, run in runs.items():
            if warm:
                run()
            start = time.perf_counter()
            results[name] = run()
            times[name].append(time.perf_counter() - start)
    return times, results


def ratio(times: Times, slow: str, fast: str) -> float:
    """How many times longer ``slow`` takes than ``fast``: median over the rounds."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def print_times(times: Times) -> None:
    """Median, least and most of every run, in milliseconds."""
    width = max(map(len, times))
    for name, taken in times.items():
        print(f"{name:{width}} {Timing.of(taken)}")


@dataclass(frozen=True)
class Timing:
    """Median, least and most of the rounds, in seconds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """That of the rounds."""
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def __str__(self) -> str:
        median, least, most = (1e3 * s for s in (self.median, self.least, self.most))
        return f"{median:8.2f} ms ({least:.2f} to {most:.2f})"


@dataclass(frozen=True)
class Settings:
    """How to measure. The rest is as for :class:`~citysegzoo.inference.Segmenter`.

    Attributes:
        size: (H, W) of the photograph, in pixels, both at least 32.
        rounds: How often everything is timed.
        threads: Of PyTorch on a CPU; None takes as many as it has now.
        device: Where to compute; ``"auto"`` is a GPU if there is one.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``. Peers compute in fp32.
        compile: Whether the network goes through :func:`torch.compile`. Peers' don't.
        beside: Peers to measure beside it: ``"smp"``, ``"torchvision"``, ``"transformers"``.

    Raises:
        TypeError: If a number is none.
        ValueError: If one is out of range, the device is not there, or a peer is unknown or not
            installed.
    """

    size: tuple[int, int] = (512, 1024)
    rounds: int = 5
    threads: int | None = None
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_positive("rounds", self.rounds)
        if self.threads is not None:
            check_positive("threads", self.threads)
        check_size("size", self.size, least=MIN_SIZE)
        find_dtype(self.precision, find_device(self.device))
        for name in self.beside:
            if name not in PEERS:
                hint = suggestion(name, PEERS) or f"; there is {', '.join(PEERS)}"
                raise ValueError(f"there is no peer {name!r}{hint}.")
            PEERS[name].load()
            if any(side % PEERS[name].unit for side in self.size):
                raise ValueError(
                    f"beside {name}, H and W are multiples of {PEERS[name].unit}, not {self.size}."
                )


@dataclass(frozen=True)
class Comparison:
    """A peer's network from photograph to label map, and ours of the same layers and weights.

    Attributes:
        peer: Name of the peer.
        options: What the zoo's network is built with to be the peer's.
        theirs: The peer's usual way: preprocess, forward, argmax, in fp32.
        ours: That of a segmenter.
        speedup: How many times longer theirs takes than ours.
        same_labels: Share of the pixels that both give the same class.
    """

    peer: str
    options: Mapping[str, Any]
    theirs: Timing
    ours: Timing
    speedup: float
    same_labels: float


@dataclass(frozen=True)
class ModelBenchmark:
    """What was measured of one model.

    Attributes:
        model: Its name.
        settings: How it was measured, with the threads, device and precision that were used.
        weights: Tag of the bundled weights, or None: they are drawn at random.
        parameters: How many it has.
        build_meta: Building it without memory.
        build: Building it with weights drawn at random.
        load: Building it with the bundled weights, if there are any.
        forward: From a preprocessed image to logits at the network's stride.
        segment: From a photograph, a uint8 array, to its label map.
        peak_mb: Memory of 1e6 bytes that a fresh process adds, after its imports, to build the
            model and segment one photograph; on a GPU the most that tensors took there. None
            where the system does not say.
        gflops: 1e9 floating-point operations of the convolutions and matrix products of one
            forward; a multiply-add is two.
        gflops_per_second: Those over the median of ``forward``.
        matrix_gflops_per_second: Of a large square matrix product in the same precision.
        share: The first of these rates as a share of the second, median over the rounds.
        beside: One for each peer.
    """

    model: str
    settings: Settings
    weights: str | None
    parameters: int
    build_meta: Timing
    build: Timing
    load: Timing | None
    forward: Timing
    segment: Timing
    peak_mb: float | None
    gflops: float
    gflops_per_second: float
    matrix_gflops_per_second: float
    share: float
    beside: tuple[Comparison, ...]


def benchmark_model(name: str, settings: Settings | None = None) -> ModelBenchmark:
    """Measure a model of the zoo.

    Args:
        name: Its name. Weights on the Hub are not fetched.
        settings: How to measure.

    Raises:
        ValueError: If there is no such model, it cannot take images of that size or there is
            not memory enough, or a peer has no such network.
    """
    settings = settings or Settings()
    device = find_device(settings.device)
    threads = settings.threads or torch.get_num_threads()
    settings = replace(settings, threads=threads, device=str(device))
    theirs = {peer: PEERS[peer].network(name) for peer in settings.beside}
    model, tag = _ready(name)
    flops = count_flops(model, settings.size)
    request = json.dumps(asdict(settings))
    # First, so that where memory is too small for an image it is this process that fails.
    peak: float | None = json.loads(_python(_PEAK, name, request))
    pixels = _photograph(settings.size)
    network = Network(model, device=device, precision=settings.precision, compile=settings.compile)
    images = network.images(torch.from_numpy(pixels)[None])
    side = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device).to(network.dtype)
    runs: dict[str, Callable[[], Any]] = {
        "build_meta": lambda: _drawn(name, "meta"),
        "build": lambda: _drawn(name),
        "load": lambda: _ready(name),
        "forward": torch.inference_mode()(lambda: network(images)),
        "segment": _segmentation(model, settings, pixels),
        "matrix": lambda: (matrix @ matrix)[0, 0].item(),  # a number waits for the device
    }
    options = {}
    for peer, their_network in theirs.items():
        ours, options[peer] = twin(their_network, peer)
        runs[peer] = usual(their_network.to(device), pixels)
        runs[f"{peer}, ours"] = _segmentation(ours, settings, pixels)
    with _threads(threads):
        if settings.compile:
            in_turn(runs, 1)  # CUDA graphs are recorded in the second run, not in the first
        times, results = in_turn(runs, settings.rounds)
    timings = {run: Timing.of(taken) for run, taken in times.items()}
    return ModelBenchmark(
        model=name,
        settings=replace(settings, precision=_DTYPES[network.dtype]),
        weights=tag,
        parameters=sum(p.numel() for p in model.parameters()),
        build_meta=timings["build_meta"],
        build=timings["build"],
        load=timings["load"] if tag else None,
        forward=timings["forward"],
        segment=timings["segment"],
        peak_mb=peak,
        gflops=flops / 1e9,
        gflops_per_second=flops / 1e9 / timings["forward"].median,
        matrix_gflops_per_second=2 * side**3 / 1e9 / timings["matrix"].median,
        share=ratio(times, "matrix", "forward") * flops / (2 * side**3),
        beside=tuple(
            Comparison(
                peer,
                options[peer],
                theirs=timings[peer],
                ours=timings[f"{peer}, ours"],
                speedup=ratio(times, peer, f"{peer}, ours"),
                same_labels=float((results[peer] == results[f"{peer}, ours"]).mean()),
            )
            for peer in theirs
        ),
    )


def benchmark_imports(rounds: int = 5) -> Times:
    """Seconds of fresh processes of Python that import citysegzoo, or torch, and nothing else."""
    runs = {what: partial(_python, f"import {what}") for what in ("citysegzoo", "torch")}
    return in_turn(runs, rounds, warm=False)[0]


def count_flops(model: SegmentationModel, size: tuple[int, int]) -> int:
    """Floating-point operations of one forward, of which a multiply-add is two.

    Convolutions, matrix products and attention count; norms, activations and resizing don't.

    Args:
        model: The model; it stays as it is.
        size: (H, W) of the image, in pixels.

    Raises:
        ValueError: If the model cannot take an image of that size.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta").eval()(torch.empty(1, model.encoder.in_channels, *size))
    return counter.get_total_flops()


def _segmentation(
    model: SegmentationModel, settings: Settings, pixels: Pixels
) -> Callable[[], Pixels]:
    segmenter = Segmenter(
        model,
        device=settings.device,
        precision=settings.precision,
        compile=settings.compile,
    )
    return lambda: segmenter(pixels).labels


def _ready(name: str) -> tuple[SegmentationModel, str | None]:
    """The model with its bundled weights and their tag, or drawn weights and None."""
    tag = next((record.tag for record in model_info(name).weights if record.file), None)
    return (create_model(name, pretrained=tag) if tag else _drawn(name).eval()), tag


def _drawn(name: str, device: str = "cpu") -> SegmentationModel:
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")  # that a frozen encoder is drawn at random is no matter
        return create_model(name)


def _photograph(size: tuple[int, int]) -> Pixels:
    """The demo street: label maps of noise take longer than those of photographs."""
    with Image.open(DEMO_IMAGE) as street:
        return np.array(street.convert("RGB").resize((size[1], size[0])))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _python(code: str, *arguments: str) -> str:
    """What a fresh process of Python prints.

    Raises:
        ValueError: If it fails, with the last line that it said.
    """
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        killed = " (killed, probably for want of memory)" if done.returncode == -9 else ""
        raise ValueError(f"a fresh process failed{killed}: {reason}")
    return done.stdout


def print_peak(name: str, settings: str) -> None:
    """Print, as JSON, the memory that one segmentation adds to this process, in 1e6 bytes."""
    how = Settings(**{**json.loads(settings), "beside": ()})
    with torch.device("meta"):
        create_model(name)  # what it imports is no memory that it takes
    before = _memory("VmRSS")
    with _threads(how.threads or torch.get_num_threads()):
        _segmentation(_ready(name)[0], how, _photograph(how.size))()
    if find_device(how.device).type == "cuda":
        print(torch.cuda.max_memory_allocated(how.device) / 1e6)
    else:
        after = _memory("VmHWM")
        print(json.dumps(None if before is None or after is None else after - before))


def _memory(field: str) -> float | None:
    """A field of this process in 1e6 bytes, on Linux.

    Not getrusage's: it starts at the memory of the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) * 1024 / 1e6 for x in lines if x.startswith(field)), None)
