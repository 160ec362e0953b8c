"""`citysegzoo benchmark`: what it counts is right, what it prints is what it measured."""

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import citysegzoo
from citysegzoo import benchmark
from citysegzoo.benchmark import Settings, benchmark_model, count_flops, in_turn, ratio
from citysegzoo.cli import main
from citysegzoo.peers import PEERS

SMALL = ["--size", "64", "96", "--rounds", "1"]


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which work begins."""

    def work(*_: object) -> None:
        pytest.fail("work began")

    for name in ("in_turn", "_python"):
        monkeypatch.setattr(benchmark, name, work)


def test_operations_counted_by_hand() -> None:
    """The small FCN: five convolutions of stride 2, five transposed ones, a 1x1 classifier."""
    model = citysegzoo.create_model("fcn", widths=(8, 16, 16, 16, 16)).eval()
    convolutions = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        # Each value of the map that is the larger one in channels x kernel meets the whole kernel.
        larger = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
        convolutions.append(2 * module.weight.numel() * larger.shape[2] * larger.shape[3])

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            assert module.groups == 1
            module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 96))
    expected = sum(convolutions)
    assert len(convolutions) == 11
    for module in model.modules():
        module._forward_hooks.clear()
    assert count_flops(model, (64, 96)) == expected
    assert next(model.parameters()).device.type == "cpu"  # it stays as it is


@pytest.mark.parametrize(
    ("name", "theirs", "auxiliary"),
    [
        ("deeplabv3_resnet101", "DeepLabV3_ResNet101_Weights", 65 * 65 * 256 * (9 * 1024 + 21)),
        ("fcn_dilated_resnet50", "FCN_ResNet50_Weights", 65 * 65 * 256 * (9 * 1024 + 21)),
        (
            "deeplabv3_mobilenet_v3_large",
            "DeepLabV3_MobileNet_V3_Large_Weights",
            65 * 65 * 10 * (9 * 40 + 21),
        ),
        ("lraspp_mobilenet_v3_large", "LRASPP_MobileNet_V3_Large_Weights", 0),
    ],
)
def test_operations_are_those_torchvision_publishes(name: str, theirs: str, auxiliary: int) -> None:
    """It publishes 1e9 multiply-adds at 520x520, those of the auxiliary head included."""
    from torchvision.models import segmentation

    with torch.device("meta"):
        model = citysegzoo.create_model(name, num_classes=21)
    published = getattr(segmentation, theirs).DEFAULT.meta["_ops"]
    assert count_flops(model, (520, 520)) / 2 + auxiliary == pytest.approx(1e9 * published, abs=1e6)


def test_runs_take_turns() -> None:
    done = []
    runs = {name: lambda name=name: done.append(name) or name for name in "ab"}
    times, results = in_turn(runs, 2)
    assert done == list("aabbaabb")
    assert results == {"a": "a", "b": "b"}
    assert [len(taken) for taken in times.values()] == [2, 2]
    done.clear()
    in_turn(runs, 2, warm=False)
    assert done == list("abab")
    assert ratio({"a": [2.0, 9.0, 3.0], "b": [1.0, 3.0, 2.0]}, "a", "b") == 2.0


@pytest.mark.slow
def test_command_prints_what_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An import of torch in a fresh process takes seconds, and says nothing here.
    times = {"citysegzoo": [0.25, 0.5], "torch": [2.0, 2.0]}
    monkeypatch.setattr(benchmark, "benchmark_imports", lambda rounds: times)
    file, threads = tmp_path / "figures.json", torch.get_num_threads()
    arguments = ["unet.small", *SMALL, "--threads", "1", "--precision", "fp32"]
    assert main(["benchmark", *arguments, "--json", str(file)]) == 0
    said = capsys.readouterr().out
    content = json.loads(file.read_text())
    assert content["imports"]["torch"] == {"median": 2.0, "least": 2.0, "most": 2.0}
    assert content["imports"]["share"] == 0.1875
    assert "375.00 ms (250.00 to 500.00)" in said
    (model,) = content["models"]
    assert "unet.small, 64x96, cpu, fp32, 1 threads, 1 rounds" in said
    assert model["settings"]["precision"] == "fp32"
    assert model["settings"]["threads"] == 1
    assert torch.get_num_threads() == threads
    assert model["weights"] == "camvid"
    for key in ("build_meta", "build", "load", "forward", "segment"):
        median = model[key]["median"]
        assert 0 < model[key]["least"] <= median <= model[key]["most"]
        assert f"{1e3 * median:.2f} ms" in said
    pretrained = citysegzoo.create_model("unet.small", pretrained="camvid")
    assert model["parameters"] == sum(p.numel() for p in pretrained.parameters())
    assert model["gflops"] == count_flops(pretrained, (64, 96)) / 1e9
    assert f"{model['gflops']:.3f} GFLOPs" in said
    rate = model["gflops"] / model["forward"]["median"]
    assert model["gflops_per_second"] == pytest.approx(rate)
    share = rate / model["matrix_gflops_per_second"]  # of one round: the ratio of the medians
    assert model["share"] == pytest.approx(share)
    assert f"{100 * share:.0f} % of a matrix" in said
    if os.path.exists("/proc/self/status"):
        weights = 4 * model["parameters"] / 1e6
        assert weights < model["peak_mb"] < weights + 1000
        assert f"{model['peak_mb']:.0f} MB" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("unet_resnet18", "smp"),
        ("deeplabv3plus_resnet18", "smp"),
        ("segformer_b0", "smp"),
        ("segformer_b0", "transformers"),
        ("fcn_dilated_resnet50", "torchvision"),
        ("lraspp_mobilenet_v3_large", "torchvision"),
    ],
)
def test_a_peer_has_the_same_network(name: str, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same labels from the same weights, so that the same work is timed."""
    pytest.importorskip(PEERS[peer].module)
    monkeypatch.setattr(benchmark, "_python", lambda *_: "null")  # peak memory: tested above
    settings = Settings(size=(64, 96), rounds=1, precision="fp32", beside=(peer,))
    result = benchmark_model(name, settings)
    (comparison,) = result.beside
    assert comparison.peer == peer
    assert comparison.same_labels > 0.999
    assert comparison.speedup == pytest.approx(comparison.theirs.median / comparison.ours.median)
    assert result.weights is None
    assert result.load is None
    assert result.peak_mb is None


def test_every_peer_has_models_of_the_zoo() -> None:
    for peer in PEERS.values():
        names = list(filter(peer.find, citysegzoo.list_models()))
        assert names
        for pattern in peer.networks:
            assert any(peer.networks[pattern] == peer.find(name)[0] for name in names)
    assert not PEERS["torchvision"].find("fcn_resnet50")  # of that name, but another network
    assert not PEERS["smp"].find("unet_resnet18.street")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unet.smal"], "no model 'unet.smal'; did you mean 'unet.small'"),
        (["unet.small", "segformer_b9"], "no model 'segformer_b9'; did you mean 'segformer_b"),
        (["--size", "0", "96"], "size must be at least 1, not 0"),
        (["--size", "-64", "96"], "size must be at least 1, not -64"),
        (["--size", "31", "96"], "size is (H, W), both at least 32, not (31, 96)"),
        (["--rounds", "0"], "rounds must be at least 1, not 0"),
        (["--rounds", "-3"], "rounds must be at least 1, not -3"),
        (["--threads", "0"], "threads must be at least 1, not 0"),
        (["--threads", "-1"], "threads must be at least 1, not -1"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used; there is cpu"),
        (["--precision", "fp16", "--device", "cpu"], "'fp16' is for GPUs"),
        (["--beside", "torchvison"], "no peer 'torchvison'; did you mean 'torchvision'"),
        (["--beside", "torchvision"], "no network that is 'unet_resnet18.street'; it has"),
        (["--json", "nowhere/b.json"], "nowhere/b.json cannot be written because its folder does"),
        (["--json", "."], ". is a folder; name a file to write"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("peer", sorted(PEERS))
def test_a_peer_that_is_missing(
    peer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> ModuleType:
        if name == PEERS[peer].module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["benchmark", "segformer_b0", "deeplabv3_resnet50", "--beside", peer]) == 2
    error = capsys.readouterr().err
    assert f"install it: pip install {PEERS[peer].package}." in error
    assert error.count("\n") == 1


def test_settings_of_peers() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(ValueError, match="H and W are multiples of 32, not"):
        Settings(size=(64, 100), beside=("smp",))
    with pytest.raises(TypeError, match="rounds must be a whole number"):
        Settings(rounds=1.5)
    with pytest.raises(ValueError, match="size is"):
        Settings(size=(64, 64, 64))


def test_what_a_fresh_process_says_is_in_the_sentence() -> None:
    with pytest.raises(ValueError, match="fresh process failed.*RuntimeError: no room"):
        benchmark._python("raise RuntimeError('no room')")


def test_the_photograph_is_the_street() -> None:
    pixels = benchmark._photograph((48, 96))
    assert pixels.shape == (48, 96, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 10
