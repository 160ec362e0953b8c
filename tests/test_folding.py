"""Batch norm folded into convolutions: where it may be, where it must not, and how exactly."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import citysegzoo
from citysegzoo.inference.folding import fold_batch_norm


def trained(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that are far from doing nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            values = [module.running_mean]
            if module.affine:
                values += [module.bias.data, module.weight.data]
            for value in values:
                value.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def assert_folds(model: nn.Module, number: int, image: Tensor | None = None) -> None:
    """So many batch norms are folded, and nothing changes but by rounding."""
    torch.manual_seed(0)
    trained(model)
    image = torch.randn(2, 4, 9, 11) if image is None else image
    with torch.no_grad():
        expected = model(image)
        assert fold_batch_norm(model, image[:1]) == number
        torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda bias: nn.Conv2d(4, 6, 3, bias=bias),
        lambda bias: nn.Conv2d(4, 6, 3, bias=bias, groups=2, padding=1, padding_mode="reflect"),
        lambda bias: nn.ConvTranspose2d(4, 6, 2, 2, bias=bias),
        lambda bias: nn.ConvTranspose2d(4, 6, 2, 2, bias=bias, groups=2),
    ],
)
def test_convolutions_of_every_kind(convolution, bias: bool, affine: bool) -> None:
    assert_folds(nn.Sequential(convolution(bias), nn.BatchNorm2d(6, affine=affine), nn.ReLU()), 1)


class Net(nn.Module):
    """A convolution, a norm, and a forward of one's own."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.run(self, x)


def returns_both(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    between = net.conv(x)
    return net.norm(between), between


def skips(net: Net, x: Tensor) -> Tensor:
    between = net.conv(x)
    return net.norm(between) + between


@pytest.mark.parametrize(
    "forward",
    [
        skips,
        returns_both,
        lambda net, x: net.norm(net.conv(x).relu()),
        lambda net, x: net.norm(net.conv(x).relu_()),
        lambda net, x: net.norm(net.conv(x)) + net.conv(x),
        lambda net, x: net.norm(net.conv(x)) + net.norm(net.other(x)),
        lambda net, x: net.norm(net.conv(x)[..., 1:]),
        lambda net, x: net.conv(net.norm(x)),
    ],
)
def test_stays_where_others_see_what_is_between(forward) -> None:
    assert_folds(Net(forward), 0)


def test_stays_without_constants() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].train()
    assert fold_batch_norm(model, torch.randn(1, 4, 9, 9)) == 0
    model[1] = nn.BatchNorm2d(4, track_running_stats=False).eval()
    assert fold_batch_norm(model, torch.randn(1, 4, 9, 9)) == 0


def test_stays_where_weights_are_computed() -> None:
    from timm.layers import StdConv2d

    for conv in (
        StdConv2d(4, 6, 3, bias=True),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
        nn.utils.spectral_norm(nn.Conv2d(4, 6, 3)),
    ):
        assert_folds(nn.Sequential(conv, nn.BatchNorm2d(6)), 0)


def test_stays_where_the_norm_does_more() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert_folds(nn.Sequential(nn.Conv2d(4, 6, 3), Doubled(6)), 0)


def test_keeps_the_activation_in_timms_norms() -> None:
    from timm.layers import BatchNormAct2d

    assert_folds(nn.Sequential(nn.Conv2d(4, 6, 3), BatchNormAct2d(6)), 1)


class Named(Net):
    """Its norm is called by another name than the one it has among the modules."""

    def __init__(self, *, listed: bool) -> None:
        super().__init__(lambda net, x: net.steps[1](net.steps[0](x)))
        steps = [self.conv, self.norm]
        self.steps = steps if listed else nn.ModuleList(steps)


@pytest.mark.parametrize("listed", [True, False])
def test_norms_of_several_names(listed: bool) -> None:
    assert_folds(Named(listed=listed), 1)


@pytest.mark.parametrize("error", [ValueError, TypeError, IndexError, ZeroDivisionError])
def test_stays_where_the_model_cannot_be_tried(error: type[Exception]) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        if x.shape[-1] < 64:
            raise error("too small")
        return net.norm(net.conv(x))

    model = trained(Net(forward))
    assert fold_batch_norm(model, torch.zeros(1, 4, 9, 11)) == 0
    assert isinstance(model.norm, nn.BatchNorm2d)


def test_weights_are_replaced_not_written_to() -> None:
    model = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    weight, bias = model[0].weight, model[0].bias
    before = weight.clone(), bias.clone()
    assert fold_batch_norm(model, torch.randn(1, 4, 9, 9)) == 1
    assert model[0].weight is not weight
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])


def test_weights_that_were_folded_are_freed_at_once() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    weight = weakref.ref(model[0].weight)
    gc.disable()
    try:
        assert fold_batch_norm(model, torch.zeros(1, 3, 8, 8)) == 1
        assert weight() is None
    finally:
        gc.enable()


def test_torchs_default_device_changes_nothing() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with torch.device("meta"):
        assert fold_batch_norm(model, torch.zeros(1, 3, 8, 8)) == 1


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode only"):
        fold_batch_norm(nn.Conv2d(4, 4, 1), torch.randn(1, 4, 9, 9))


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("unet.small", {"widths": (4, 8)}, 0),
        ("deeplabv3plus_resnet18", {}, 0),
        ("segnet_vgg16", {}, 0),
        ("segformer_b0", {}, 0),
    ],
)
def test_models(name: str, options: dict, left: int) -> None:
    torch.manual_seed(0)
    model = trained(citysegzoo.create_model(name, **options)).double()
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image)
        assert fold_batch_norm(model, image) == norms - left
        difference = (model(image) - expected).abs().max()
    assert difference < 1e-9 * expected.abs().max()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch.jit
def test_stays_where_nobody_sees_what_is_done() -> None:
    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    net = Net(lambda net, x: net.norm(between := net.conv(x)) + net.scripted(between))
    net.scripted = torch.jit.script(Scripted())
    assert_folds(net, 0)


def test_looks_at_the_shape_are_no_use() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        between = net.conv(x)
        assert between.shape == (between.size(0), 4, *x.shape[2:])
        return net.norm(between)

    assert_folds(Net(forward), 1)


def test_padded_strided_and_dilated() -> None:
    """Shapes of the trial run are those of the convolution itself."""
    model = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding="valid", dilation=(1, 2)),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 8, 3, 2, padding=1, output_padding=1, groups=2, dilation=2),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    assert_folds(model, 3)


def test_each_is_told_of_before_the_next() -> None:
    model = trained(
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6))
    )
    last = model[2].weight
    told = []

    def on_folded(conv: nn.Module) -> None:
        told.append(conv)
        assert (model[2].weight is last) == (len(told) == 1)

    assert fold_batch_norm(model, torch.randn(1, 4, 9, 9), on_folded=on_folded) == 2
    assert told == [model[0], model[2]]


class Remembers(nn.Module):
    """As timm's TinyViT does in evaluation: it computes something of its weights once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
        self.bias = nn.Parameter(torch.arange(6.0))
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.bias[[5, 4, 3, 2, 1, 0]]
        return self.norm(self.conv(x)) + self.kept[:, None, None]


def test_what_a_module_keeps_is_not_of_the_trial() -> None:
    model = trained(Remembers())
    assert fold_batch_norm(model, torch.randn(1, 4, 9, 11)) == 1
    assert model.kept is None
    image = torch.randn(1, 4, 9, 11)
    with torch.no_grad():
        assert (model(image) - model.conv(image))[0, :, 0, 0].tolist() == [5, 4, 3, 2, 1, 0]
