"""``citysegzoo benchmark``: how fast models are, and how fast beside other libraries."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from citysegzoo.cli.common import Commands, add_hardware, check_file_writable, print_table, say

if TYPE_CHECKING:
    from citysegzoo.benchmark import ModelBenchmark


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    benchmark = commands.add_parser(
        "benchmark",
        help="measure time, memory and operations of models on this machine",
        description="Measures run in turn; printed is the median of the rounds (least to most). "
        "Models without bundled weights are drawn at random; nothing is downloaded.",
    )
    benchmark.add_argument("names", nargs="*", metavar="NAME", help="models [unet_resnet18.street]")
    benchmark.add_argument(
        "--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"), help="[512 1024]"
    )
    benchmark.add_argument("--rounds", type=int, default=5, metavar="N", help="[5]")
    benchmark.add_argument("--threads", type=int, metavar="N", help="on a CPU [as PyTorch has]")
    add_hardware(benchmark)
    benchmark.add_argument("--compile", action="store_true", help="compile the networks first")
    benchmark.add_argument(
        "--beside",
        nargs="+",
        default=(),
        metavar="PEER",
        help="measure the same networks of smp, torchvision or transformers too, in fp32",
    )
    benchmark.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    benchmark.set_defaults(run=_benchmark)


def _benchmark(args: argparse.Namespace) -> int:
    from dataclasses import asdict, replace

    from citysegzoo.benchmark import (
        Settings,
        Timing,
        benchmark_imports,
        benchmark_model,
        ratio,
    )
    from citysegzoo.factory import DEFAULT_MODEL, model_info
    from citysegzoo.files import write
    from citysegzoo.peers import PEERS

    settings = Settings(
        size=tuple(args.size),
        rounds=args.rounds,
        threads=args.threads,
        device=args.device,
        precision=args.precision,
        compile=args.compile,
        beside=tuple(args.beside),
    )
    # What is wrong is said before work begins, not after that of the names before it.
    names = [model_info(name).name for name in args.names or [DEFAULT_MODEL]]
    for peer in settings.beside:
        if not any(map(PEERS[peer].find, names)):
            PEERS[peer].network(names[0])  # raises, naming those that it has
    if args.json:
        check_file_writable(args.json)
    times = benchmark_imports(settings.rounds)
    imports = {name: Timing.of(taken) for name, taken in times.items()}
    share = ratio(times, "citysegzoo", "torch")
    print_table(
        [
            *(
                (f"import {name}, in a fresh process", str(taken))
                for name, taken in imports.items()
            ),
            ("citysegzoo / torch", f"{share:.3f}"),
        ]
    )
    results = []
    for name in names:
        peers = tuple(peer for peer in settings.beside if PEERS[peer].find(name))
        for peer in settings.beside:
            if peer not in peers:
                say(f"{peer} has no network that is {name}: it is left out there.")
        results.append(benchmark_model(name, replace(settings, beside=peers)))
        _print_result(results[-1])
    if args.json:
        content = {
            "imports": {name: asdict(taken) for name, taken in imports.items()} | {"share": share},
            "models": [asdict(result) for result in results],
        }
        write(args.json, json.dumps(content, indent=4) + "\n")
    return 0


def _print_result(result: ModelBenchmark) -> None:
    how = result.settings
    compiled = ", compiled" if how.compile else ""
    print(
        f"\n{result.model}, {how.size[0]}x{how.size[1]}, {how.device}, {how.precision}, "
        f"{how.threads} threads{compiled}, {how.rounds} rounds"
    )
    print_table(
        [
            ("weights", result.weights or "none in the package: drawn at random"),
            ("parameters", f"{result.parameters:,}"),
            ("build, without memory", str(result.build_meta)),
            ("build, weights drawn", str(result.build)),
            *([("load bundled weights", str(result.load))] if result.load else []),
            ("forward", str(result.forward)),
            ("photograph to label map", str(result.segment)),
            ("peak memory added", "unknown" if result.peak_mb is None else _mb(result.peak_mb)),
            ("operations of a forward", f"{result.gflops:.3f} GFLOPs (a multiply-add is 2)"),
            (
                "achieved",
                f"{result.gflops_per_second:.1f} GFLOP/s, {100 * result.share:.0f} % of a matrix "
                f"product's {result.matrix_gflops_per_second:.1f}",
            ),
        ]
    )
    if result.beside:
        print("\nphotograph to label map, beside the same network of a peer in fp32")
        rows = [("PEER", "ITS TIME", "OURS", "TIMES AS FAST", "SAME LABELS", "OURS BUILT WITH")]
        for peer in result.beside:
            options = " ".join(f"{name}={value}" for name, value in peer.options.items())
            speedup, same = f"{peer.speedup:.2f}", f"{100 * peer.same_labels:.2f} %"
            rows.append((peer.peer, str(peer.theirs), str(peer.ours), speedup, same, options))
        print_table(rows)


def _mb(megabytes: float) -> str:
    return f"{megabytes:.0f} MB"
