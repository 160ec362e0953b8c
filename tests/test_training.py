"""What training stands on: sampling, processes, checkpointing, parts, memory, averages."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

import citysegzoo
from citysegzoo.data import Augmentation, Cityscapes, draw_streets
from citysegzoo.hardware import find_device
from citysegzoo.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, create_loss
from citysegzoo.training.activation_checkpointing import checkpoint_activations
from citysegzoo.training.averaging import averaging
from citysegzoo.training.distributed import (
    Processes,
    SynchronisedBatchNorm2d,
    start_processes,
    synchronise_batch_norm,
)
from citysegzoo.training.muon import Muon, orthogonal, split_weights
from citysegzoo.training.parts import part_weights
from citysegzoo.training.sampling import Seeded, TrainingBatches, seed_of
from citysegzoo.training.state import load_state, save_state

ALONE = Processes(torch.device("cpu"))


# --- sampling


def test_ranks_and_steps_that_are_not_there() -> None:
    """Both would give nothing to train on, or fewer than none."""
    with pytest.raises(ValueError, match="rank is from 0 to 1, of 2, not 5"):
        TrainingBatches(8, 4, rank=5, world_size=2)
    batches = TrainingBatches(8, 4)
    batches.start(0, 2)
    assert len(batches) == 0
    with pytest.raises(ValueError, match="an epoch has 2 steps, so that none begins at 3"):
        batches.start(0, 3)


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 2), (2, 1), (2, 2), (3, 2)])
def test_the_same_batches_for_any_number_of_processes_and_parts(
    world_size: int, accumulate: int
) -> None:
    alone = TrainingBatches(50, 12, seed=7)
    alone.start(3)
    shares = [
        TrainingBatches(50, 12, seed=7, accumulate=accumulate, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for share in shares:
        share.start(3)
        assert len(share) == len(list(share)) == 4 * accumulate
    parts = [list(share) for share in shares]
    for step, batch in enumerate(alone):
        taken = slice(step * accumulate, (step + 1) * accumulate)
        assert batch == [key for its in parts for part in its[taken] for key in part]
    assert len(list(alone)) == 4  # two images wait for another epoch


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        batches = TrainingBatches(40, 4, seed=seed)
        batches.start(epoch)
        return [key for batch in batches for key in batch]

    assert sorted(index for index, _ in order(0, 0)) == list(range(40))
    assert order(0, 1) == order(0, 1)
    orders = [[i for i, _ in order(*which)] for which in ((0, 0), (0, 1), (1, 0), (2**32, 0))]
    assert len({tuple(its) for its in orders}) == 4
    # An image gets the same seed wherever it comes in its epoch, and another in another one.
    assert dict(order(0, 1)) == {i: seed_of(0, 1, i) for i in range(40)}
    assert not set(dict(order(0, 0)).values()) & set(dict(order(0, 1)).values())


def test_an_epoch_is_taken_up_at_any_step() -> None:
    whole = TrainingBatches(50, 12, seed=1, accumulate=2)
    whole.start(2)
    for step in range(5):
        rest = TrainingBatches(50, 12, seed=1, accumulate=2)
        rest.start(2, step)
        assert list(rest) == list(whole)[2 * step :]
        assert len(rest) == 2 * (4 - step)


def test_seeds_differ_wherever_a_number_does() -> None:
    numbers = [(0,), (0, 0), (1, 2), (1, 2, 0), (12,), (2**32,), (0, 1), (-1,), (2, 1)]
    seeds = [seed_of(*its) for its in numbers]
    assert len(set(seeds)) == len(numbers)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, 1, 2) == 8338702705367738415  # the same with every version of everything


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 12}, "there are 10 training images, fewer than a batch of 12"),
        ({"batch_size": 3, "accumulate": 2}, "3 images cannot be shared evenly by 1 process in 2"),
        ({"batch_size": 6, "world_size": 4}, "by 4 processes in 1 part each; .* multiple of 4"),
        ({"batch_size": 0}, "cannot be shared"),
    ],
)
def test_batches_that_cannot_be(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingBatches(10, **options)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_streets(tmp_path_factory.mktemp("data") / "streets", images=6, size=(64, 128))


def test_augmentation_follows_from_the_key_with_any_number_of_workers(streets: Path) -> None:
    augmentation = Augmentation(flip=0.5, scale=(0.5, 2), crop=(32, 48), brightness=0.5, hue=0.1)
    data = Cityscapes(streets, transform=augmentation.build(ignore_index=255))
    batches = TrainingBatches(6, 2, seed=3)

    def epoch(workers: int, number: int, step: int = 0) -> list[Tensor]:
        batches.start(number, step)
        loader = DataLoader(Seeded(data), batch_sampler=batches, num_workers=workers)
        return [part for batch in loader for part in batch]

    torch.manual_seed(0)
    here = epoch(0, 1)
    torch.manual_seed(99)
    for other in (epoch(0, 1), epoch(2, 1)):
        assert all(torch.equal(a, b) for a, b in zip(here, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(here[2:], epoch(2, 1, step=1), strict=True))
    assert not torch.equal(torch.cat(here[::2]), torch.cat(epoch(0, 2)[::2]))


class _Drawing(Dataset[float]):
    def __getitem__(self, index: int) -> float:
        if index == 1:
            raise ValueError("broken")
        return float(torch.rand(()))

    def __len__(self) -> int:
        return 2


def test_a_seeded_dataset_leaves_the_generator_alone() -> None:
    data = Seeded(_Drawing())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert data[0, 1] == data[0, 1] != data[0, 2]
    with pytest.raises(ValueError, match="broken"):
        data[1, 0]
    assert torch.equal(torch.get_rng_state(), before)
    assert len(data) == 2


# --- several processes

NORMS: dict[str, Callable[[], nn.BatchNorm2d]] = {
    "plain": partial(nn.BatchNorm2d, 5),
    "momentum None": partial(nn.BatchNorm2d, 5, momentum=None),
    "other numbers": partial(nn.BatchNorm2d, 5, eps=1e-2, momentum=0.7),
    "not affine": partial(nn.BatchNorm2d, 5, affine=False),
    "no statistics": partial(nn.BatchNorm2d, 5, track_running_stats=False),
    "bf16": partial(nn.BatchNorm2d, 5),
    "timm": lambda: __import__("timm").layers.BatchNormAct2d(5),
}
SHARES = ((0, 3), (3, 4))  # a process has three images, the other has one


def _normalise(name: str, norm: nn.BatchNorm2d, part: slice) -> dict[str, Tensor | None]:
    """Outputs, gradients and statistics after two batches, of which this process has a part."""
    if norm.affine:
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    random = torch.Generator().manual_seed(0)
    for _ in range(2):
        norm.zero_grad()
        # Content that differs much between the images.
        means = torch.tensor([-5.0, 0.1, 3.0, 40.0])[:, None, None, None]
        x = means + torch.randn(4, 5, 6, 7, generator=random) * (means.abs() + 1)
        towards = torch.randn(4, 5, 6, 7, generator=random)
        x = (x.bfloat16() if name == "bf16" else x)[part].requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
            y = norm(x)
        (y.float() * towards[part]).sum().backward()
    norm.eval()
    return {
        "y": y.detach(),
        "x.grad": x.grad,
        # Without statistics each process evaluates by its own batch.
        **({"evaluated": norm(x).detach()} if norm.track_running_stats else {}),
        **{f"{k}.grad": p.grad for k, p in norm.named_parameters()},
        **norm.state_dict(),
    }


def _parts_of_batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 4, 6, 5, generator=random)
    target = torch.randint(0, 4, (4, 6, 5), generator=random)
    target[0] = 255  # an image without a label
    target[1, 1:] = 255
    return logits, target


CRITERIA: dict[str, Callable[[], nn.Module]] = {
    "mean": CrossEntropyLoss,
    "weighted": lambda: CrossEntropyLoss(class_weights=[0.1, 5.0, 1.0, 0.0]),
    "smoothed": lambda: CrossEntropyLoss(class_weights=[0.1, 5.0, 1.0, 2.0], label_smoothing=0.2),
    "another label ignored": lambda: CrossEntropyLoss(ignore_index=255, class_weights=[1.0] * 4),
    "sum": lambda: CrossEntropyLoss(reduction="sum"),
    "report": lambda: create_loss("fixman2024_cross_entropy", ignore_index=255),
}


def _loss_in_parts(
    criterion: nn.Module, parts: list[slice], processes: Processes
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the logits, as the processes average them."""
    logits, target = _parts_of_batch()
    logits.requires_grad_()
    weights = part_weights(criterion, [target[part] for part in parts], processes)
    total = torch.zeros(())
    for part, weight in zip(parts, weights, strict=True):
        loss = criterion(logits[part], target[part]) * weight
        loss.backward()
        total += loss.detach()
    assert logits.grad is not None
    return (
        processes.sum(total) / processes.world_size,
        processes.sum(logits.grad) / processes.world_size,
    )


def _in_a_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    processes = Processes(torch.device("cpu"), rank, 2)
    found: dict[str, Any] = {"norms": {}, "losses": {}}
    for name, make in NORMS.items():
        model = nn.Sequential(make())
        synchronise_batch_norm(model, torch.device("cpu"))
        assert isinstance(model[0], SynchronisedBatchNorm2d)
        found["norms"][name] = _normalise(name, model[0], slice(*SHARES[rank]))
    share = [slice(2 * rank, 2 * rank + 1), slice(2 * rank + 1, 2 * rank + 2)]
    for name, make_loss in CRITERIA.items():
        found["losses"][name] = _loss_in_parts(make_loss(), share, processes)
    found["sum"] = processes.sum(torch.tensor([1.0 + rank]))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_in_a_process, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_of_two_processes(name: str, two_processes: list[dict[str, Any]]) -> None:
    whole = _normalise(name, NORMS[name](), slice(0, 4))
    mine = [found["norms"][name] for found in two_processes]
    assert mine[0].keys() == mine[1].keys() == whole.keys()
    for key, expected in whole.items():
        if key in ("y", "x.grad", "evaluated"):
            found = torch.cat([its[key] for its in mine])
        elif key.endswith(".grad"):  # of the sum of both losses
            found = mine[0][key] + mine[1][key]
        else:
            assert torch.equal(mine[0][key], mine[1][key]), key
            found = mine[0][key]
        assert found.dtype == expected.dtype
        # Sums of a hundred float32 numbers up to 100, in another order; bf16 has 8 bits.
        near = {"atol": 1e-4, "rtol": 1e-5}
        if expected.dtype == torch.bfloat16:
            near = {"atol": 1e-2, "rtol": 2**-7}
        torch.testing.assert_close(found, expected, **near, msg=lambda m: f"{key}: {m}")  # noqa: B023


def test_batch_norm_alone_is_batch_norm() -> None:
    x = torch.randn(3, 5, 4, 4)
    norm = nn.BatchNorm2d(5, momentum=0.3)
    synchronised = SynchronisedBatchNorm2d.like(copy.deepcopy(norm))
    assert torch.equal(synchronised(x), norm(x))
    assert synchronised.state_dict().keys() == norm.state_dict().keys()
    assert torch.equal(synchronised.running_var, norm.running_var)


def test_names_of_weights_stay() -> None:
    model = citysegzoo.compose("timm/efficientnet_lite0", "fcn_head", num_classes=3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    synchronise_batch_norm(model, torch.device("cpu"))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert not [m for m in model.modules() if type(m) is nn.BatchNorm2d]


@pytest.mark.slow
@pytest.mark.parametrize("name", CRITERIA)
def test_losses_of_parts_add_up(name: str, two_processes: list[dict[str, Any]]) -> None:
    criterion = CRITERIA[name]()
    logits, target = _parts_of_batch()
    logits.requires_grad_()
    loss = criterion(logits, target)
    loss.backward()
    one_process = _loss_in_parts(criterion, [slice(0, 1), slice(1, 4)], ALONE)
    # Float32 sums in another order: a few units in the last place of numbers up to 100.
    near = {"atol": 1e-6, "rtol": 1e-5}
    for found in (one_process, *(its["losses"][name] for its in two_processes)):
        torch.testing.assert_close(found, (loss.detach(), logits.grad), **near)


def test_losses_that_are_no_mean_of_pixels_count_by_images() -> None:
    _, target = _parts_of_batch()
    weights = part_weights(DiceLoss(), [target[:1], target[1:]], ALONE)
    assert [float(weight) for weight in weights] == [0.25, 0.75]
    # Added up are the classes of each part, of which there are no more in more parts.
    added = part_weights(DiceLoss(reduction="sum"), [target[:1], target[1:]], ALONE)
    assert [float(weight) for weight in added] == [0.25, 0.75]


def test_sums_that_cannot_be_taken_in_parts() -> None:
    _, target = _parts_of_batch()
    mixed = CombinedLoss(CrossEntropyLoss(reduction="sum"), DiceLoss())
    assert [float(w) for w in part_weights(mixed, [target], ALONE)] == [1.0]
    with pytest.raises(ValueError, match="some add up pixels and some average"):
        part_weights(mixed, [target[:1], target[1:]], ALONE)
    added = CombinedLoss(*[CrossEntropyLoss(reduction="sum")] * 2)
    assert [float(w) for w in part_weights(added, [target[:1], target[1:]], ALONE)] == [1.0, 1.0]


def test_parts_without_a_labelled_pixel() -> None:
    target = torch.full((2, 3, 3), 255)
    weights = part_weights(CrossEntropyLoss(), [target, target], ALONE)
    assert [float(weight) for weight in weights] == [0, 0]


@pytest.mark.slow
def test_sum_over_processes(two_processes: list[dict[str, Any]]) -> None:
    assert [found["sum"].tolist() for found in two_processes] == [[3.0], [3.0]]
    assert ALONE.sum(torch.tensor(2.0)) == 2
    assert ALONE.first


@pytest.mark.parametrize(("name", "told"), [("cuda", True), ("cuda:0", True), ("cuda:1", False)])
def test_why_a_card_that_is_there_cannot_be_used(
    name: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(ValueError, match="there is cpu, cuda:0") as caught:
        find_device(name)
    assert ("(CUDA out of memory)" in str(caught.value)) is told


def test_only_cuda_is_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto").type in ("cuda", "cpu")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "'cuda:99' cannot be used; there is cpu"),
        ("gpu", "'gpu' cannot be used; there is cpu"),
        ("meta", "'meta' cannot be used; there is cpu"),
        ("xpu:7", "'xpu:7' cannot be used; there is cpu"),
    ],
)
def test_devices_that_are_not_there(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start_processes(device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "auto"])
def test_devices_that_are_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start_processes(device).device.type in ("cpu", "cuda")


# --- activation checkpointing

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: citysegzoo.create_model("unet", widths=(8, 16, 32)),
    "unet_resnet18": lambda: citysegzoo.create_model("unet_resnet18", dropout=0.2),
    "unet_swin_tiny": lambda: citysegzoo.create_model("unet_swin_tiny"),
    "segformer_b0": lambda: citysegzoo.create_model("segformer_b0"),
    "segnet_basic": lambda: citysegzoo.create_model("segnet_basic", width=8),
    "segnet_vgg16": lambda: citysegzoo.create_model("segnet_vgg16"),
    "deeplabv3_resnet18": lambda: citysegzoo.create_model("deeplabv3_resnet18"),
    "deeplabv3plus_resnet18": lambda: citysegzoo.create_model("deeplabv3plus_resnet18"),
    "unet_aspp": lambda: citysegzoo.create_model("unet_aspp", widths=(8, 16, 32, 64, 128)),
    "fcn": lambda: citysegzoo.create_model("fcn"),
    "timm": lambda: citysegzoo.compose("timm/efficientnet_lite0", "deeplabv3plus"),
    "momentum None": lambda: _without_momentum(citysegzoo.create_model("unet", widths=(8, 16, 32))),
}
# The fast core has a smaller one of the kind: SegNet, a transformer, DeepLab and U-Net.
LARGE = ("segnet_vgg16", "unet_swin_tiny", "deeplabv3plus_resnet18", "unet_aspp")


def _without_momentum(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    return model


def _step(model: nn.Module) -> tuple[Tensor, int]:
    """The loss of two steps, and the bytes kept for the backward pass of the last one.

    Kept are tensors saved by operations outside blocks, and what goes into a block.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def keep_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                keep(tensor)

    blocks = [module for module in model.modules() if isinstance(module.forward, partial)]
    hooks = [block.register_forward_pre_hook(keep_inputs) for block in blocks]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for step in range(2):
        kept.clear()
        torch.manual_seed(step)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(images).square().mean()
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
    for hook in hooks:
        hook.remove()
    return loss.detach(), size


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NETWORKS]
)
def test_checkpointing_changes_memory_alone(name: str) -> None:
    torch.manual_seed(0)
    plain = NETWORKS[name]().train()
    model = copy.deepcopy(plain)
    names = list(model.state_dict())
    number = checkpoint_activations(model)
    loss, size = _step(plain)
    its_loss, its_size = _step(model)
    print(f"{name}: {number} blocks keep {its_size / size:.2f} of {size / 1e6:.1f} MB")
    assert number > 0
    assert its_size < size
    assert torch.equal(its_loss, loss)
    assert list(model.state_dict()) == names
    for (key, expected), (its_key, found) in zip(
        plain.named_parameters(), model.named_parameters(), strict=True
    ):
        assert its_key == key
        assert expected.grad is not None, f"{key} has no part in the result"
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-6)
    for (key, expected), found in zip(plain.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(found, expected), key


def test_checkpointed_models_evaluate_as_before() -> None:
    model = citysegzoo.create_model("unet", widths=(8, 16)).eval()
    images = torch.randn(1, 3, 32, 32)
    before = model(images)
    checkpoint_activations(model)
    assert torch.equal(model(images), before)
    with torch.no_grad():
        assert torch.isfinite(model.train()(images)).all()


# --- averaged weights


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
def test_averages_against_a_loop(decay: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    averaged = AveragedModel(model, multi_avg_fn=averaging(decay), use_buffers=True)
    expected: dict[str, Tensor] = {}
    for step in range(30):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value))
            model(torch.randn(4, 2, 3, 3))
        averaged.update_parameters(model)
        stay = min(decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if step == 0:
                expected[name] = value.double()
            else:
                expected[name] = stay * expected[name] + (1 - stay) * value.double()
    for name, value in averaged.module.state_dict().items():
        if name == "1.num_batches_tracked":  # a whole number, of which there is no average
            assert value == 30
        else:
            # Float32 against float64 over thirty steps.
            torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)


def test_whole_numbers_are_not_averaged() -> None:
    """Positions in a Swin's windows, which a rounded average would move."""
    model = citysegzoo.create_encoder("swin_tiny")
    averaged = AveragedModel(model, multi_avg_fn=averaging(0.998), use_buffers=True)
    for _ in range(30):
        averaged.update_parameters(model)
    whole = {name: b for name, b in model.named_buffers() if not b.is_floating_point()}
    assert whole
    found = dict(averaged.module.named_buffers())
    assert all(torch.equal(found[name], value) for name, value in whole.items())


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_decays_that_are_none(decay: float) -> None:
    with pytest.raises(ValueError, match="from 0 to below 1"):
        averaging(decay)


# --- Muon


def steps_of(optimizer: torch.optim.Optimizer, weight: Tensor, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has a Muon since 2.9")
@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    gradients = [torch.randn(shape) for _ in range(4)]
    start = torch.randn(shape)
    mine, its = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}
    found = steps_of(Muon([mine], **settings), mine, gradients)
    its_muon = torch.optim.Muon([its], **settings, adjust_lr_fn="match_rms_adamw")
    expected = steps_of(its_muon, its, gradients)
    # A step changes a weight by about 0.02. PyTorch computes in bfloat16, we where that is fast.
    assert (found - expected).abs().max() < 2e-3
    assert (found - start).abs().max() > 2e-2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_a_matrix(layout: torch.memory_format) -> None:
    gradients = [torch.randn(6, 4, 3, 3) for _ in range(3)]
    kernel = nn.Parameter(torch.randn(6, 4, 3, 3).to(memory_format=layout))
    matrix = nn.Parameter(kernel.detach().clone().flatten(1))
    found = steps_of(Muon([kernel], 0.1), kernel, [g.to(memory_format=layout) for g in gradients])
    expected = steps_of(Muon([matrix], 0.1), matrix, [g.flatten(1) for g in gradients])
    torch.testing.assert_close(found.flatten(1), expected)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (64, 288)])
def test_momentum_is_made_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    its_u, values, its_v = torch.linalg.svd(orthogonal(matrix), full_matrices=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # The same directions: the orthogonal factors differ by bfloat16 alone.
    torch.testing.assert_close(its_u @ its_v, u @ v, rtol=0, atol=0.05)


def test_a_step_is_as_long_as_one_of_adamw() -> None:
    weight = nn.Parameter(torch.zeros(32, 16, 3, 3))
    steps_of(Muon([weight], 1.0, weight_decay=0), weight, [torch.randn_like(weight)])
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)


@pytest.mark.parametrize("name", ["unet_resnet18", "segformer_b0", "unet.small"])
def test_what_muon_trains(name: str) -> None:
    model = citysegzoo.create_model(name, num_classes=11)
    next(model.encoder.parameters()).requires_grad = False
    names = {id(p): name for name, p in model.named_parameters()}
    matrices, rest = ([names[id(p)] for p in part] for part in split_weights(model))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(matrices + rest) == sorted(trained)
    assert all(model.get_parameter(name).ndim >= 2 for name in matrices)
    assert sum(model.get_parameter(name).numel() for name in matrices) > 0.9 * sum(
        model.get_parameter(name).numel() for name in trained
    )
    assert not [name for name in matrices if name.startswith("classifier")]
    within, _ = split_weights(nn.Sequential(model))
    assert [names[id(p)] for p in within] == matrices
    # Left are vectors, the classifier and SegFormer's depthwise convolutions.
    left = [name for name in rest if model.get_parameter(name).ndim > 1]
    assert all(name.startswith("classifier") or ".depthwise." in name for name in left)


def test_what_muon_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"two dimensions and more, not \(3,\); give it the first"):
        Muon([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="momentum from 0 to below 1, not 0.1, 0.01 and 1"):
        Muon([nn.Parameter(torch.zeros(3, 3))], 0.1, momentum=1)
    groups = Muon([{"params": [nn.Parameter(torch.zeros(3, 3))], "lr": 0.5}])
    assert groups.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="two dimensions and more"):
        groups.add_param_group({"params": nn.Parameter(torch.zeros(3))})
    assert len(groups.param_groups) == 1


def test_muon_leaves_what_has_no_gradient() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    assert Muon([weight], 0.1).step(lambda: 5) == 5
    assert torch.equal(weight, torch.ones(3, 3))


# --- the state of a run


def test_states_come_back(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    state = {"weights": {"a": torch.arange(3.0)}, "step": 4, "log": [{"loss": math.pi}], "x": None}
    save_state(file, state, settings={"lr": 0.1, "crop": (3, 4)})
    found = load_state(file, settings={"lr": 0.1, "crop": (3, 4)})
    assert torch.equal(found["weights"].pop("a"), torch.arange(3.0))
    assert found == {**state, "weights": {}}
    with pytest.raises(ValueError, match=r"lr was 0.1 and is 0.2; seed was None and is 1; give"):
        load_state(file, settings={"lr": 0.2, "crop": (3, 4), "seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04"])
def test_files_that_hold_no_state(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "last.pt"
    with pytest.raises(FileNotFoundError, match="there is no run to resume"):
        load_state(file, settings={})
    file.write_bytes(content)
    with pytest.raises(ValueError, match="holds no state of a run; begin it anew"):
        load_state(file, settings={})
    torch.save({"format": 0, "settings": {}, "state": {}}, file)
    with pytest.raises(ValueError, match="another version"):
        load_state(file, settings={})


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.pt"
    save_state(file, {"step": 1}, settings={})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"last.pt could not be written, because there is no space"):
        save_state(file, {"step": 2}, settings={})
    assert load_state(file, settings={}) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


# --- memory: in processes of their own, because it holds for the whole process


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_freed_memory_is_kept() -> None:
    output = _run(
        "import ctypes, time\n"
        "from citysegzoo.memory import freed_memory_kept, keep_freed_memory\n"
        "from pathlib import Path\n"
        "def resident():\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "malloc, free, memset = (getattr(ctypes.CDLL(None), n) for n in"
        " ('malloc', 'free', 'memset'))\n"
        "malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]\n"
        "free.argtypes = [ctypes.c_void_p]\n"
        "memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]\n"
        "def freed():\n"
        "    before = resident()\n"
        "    buffer = malloc(200 << 20)\n"
        "    memset(buffer, 1, 200 << 20)\n"
        "    free(buffer)\n"
        "    return resident() - before\n"
        "start = resident()\n"
        "print(freed() >> 20)\n"
        "with freed_memory_kept() as done:\n"
        "    print(done, freed() >> 20)\n"
        "print(resident() - start >> 20, freed() >> 20)\n"
        "print(keep_freed_memory(), freed() >> 20)\n"
    )
    before, done, inside, left, outside, still_done, after = output.split()
    if done == "False":
        pytest.skip("no glibc")
    assert still_done == "True"
    assert max(map(int, (before, left, outside))) < 20
    assert min(int(inside), int(after)) > 180


def test_memory_beyond_the_limit_raises() -> None:
    output = _run(
        "import torch\n"
        "from citysegzoo.memory import limit_memory\n"
        "limit = limit_memory()\n"
        "half = limit_memory(2)\n"
        "print(limit is not None)\n"
        "if limit is not None:\n"
        "    assert limit / 3 < half < limit\n"
        "    try:\n"
        "        torch.empty(half, dtype=torch.uint8)\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
    )
    if output.startswith("False"):
        pytest.skip("no limits here")
    assert "can't allocate memory" in output


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError()])
def test_a_state_that_cannot_be_read_now_may_be_whole(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    save_state(tmp_path / "last.pt", {"epoch": 1}, settings={})
    with monkeypatch.context() as broken:
        broken.setattr(torch, "load", fail)
        with pytest.raises(type(error)):
            load_state(tmp_path / "last.pt", settings={})
    assert load_state(tmp_path / "last.pt", settings={}) == {"epoch": 1}


def test_synchronised_batch_norm_takes_a_single_value() -> None:
    norm = citysegzoo.layers.BatchNorm2d(3).train()
    x = torch.randn(1, 3, 1, 1)
    expected = norm(x)
    model = synchronise_batch_norm(nn.Sequential(norm), torch.device("cpu")).train()
    assert torch.equal(model(x), expected)
