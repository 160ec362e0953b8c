"""The reports' networks once more, written literally and apart from the library.

Each class spells out one network as its report (or the report's code) describes it, in plain
PyTorch and without anything of citysegzoo, so that `test_reported_networks.py` can hold the zoo's
models against them. Nothing here is general or fast: what is read here is what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize to `size` with aligned corners, as every report does that resizes by itself."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def conv(cin: int, cout: int, k: int = 3, stride: int = 1) -> nn.Conv2d:
    """Biased convolution that keeps the size (at stride 1)."""
    return nn.Conv2d(cin, cout, k, stride=stride, padding=k // 2)


def conv_relu(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(conv(cin, cout), nn.ReLU())


def conv_bn_relu(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(cin, cout, stride=stride), nn.BatchNorm2d(cout), nn.ReLU())


def twice(block: Callable[[int, int], nn.Module], cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(block(cin, cout), block(cout, cout))


def deconv_bn_relu(cin: int, cout: int) -> nn.Sequential:
    """Transposed 3x3 that doubles the size exactly, batch norm, ReLU."""
    up = nn.ConvTranspose2d(cin, cout, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(up, nn.BatchNorm2d(cout), nn.ReLU())


def double(cin: int, cout: int) -> nn.ConvTranspose2d:
    """Transposed 2x2 at stride 2."""
    return nn.ConvTranspose2d(cin, cout, 2, stride=2)


def fcn_decoder(cin: int, classes: int) -> nn.Sequential:
    """Five transposed convolutions to 32 channels, then the 1x1 classifier."""
    widths = [cin, 512, 256, 128, 64, 32]
    ups = [deconv_bn_relu(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*ups, nn.Conv2d(32, classes, 1))


def resnet_layers(name: str) -> nn.Sequential:
    """torchvision's ResNet without its pooling and its linear layer: stride 32, 2048 channels."""
    return nn.Sequential(*list(getattr(torchvision.models, name)(weights=None).children())[:-2])


# stevens2020 -------------------------------------------------------------------------------------


class StevensUNet(nn.Module):
    """depth levels of 8, 16, ... channels, depth - 1 poolings; the upsampled map comes first."""

    def __init__(self, depth: int, *, batch_norm: bool, upconv: bool) -> None:
        super().__init__()
        block = conv_bn_relu if batch_norm else conv_relu
        widths = [8 * 2**i for i in range(depth)]
        self.down = nn.ModuleList(twice(block, a, b) for a, b in pairwise([3, *widths]))
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            if upconv:
                self.up.append(double(2 * width, width))
            else:
                upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
                self.up.append(nn.Sequential(upsample, nn.Conv2d(2 * width, width, 1)))
            self.merge.append(twice(block, 2 * width, width))
        self.last = nn.Conv2d(8, 34, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, down in enumerate(self.down):
            x = down(x)
            if i < len(self.down) - 1:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], 1))
        return self.last(x)


# chen2020 ----------------------------------------------------------------------------------------


class StarterFCN(nn.Module):
    """Five stride-2 convolutions and five transposed ones, all with batch norm, then ReLU."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = [3, 32, 64, 128, 256, 512]
        pairs = pairwise(widths)
        self.encoder = nn.Sequential(*(conv_bn_relu(a, b, stride=2) for a, b in pairs))
        self.decoder = fcn_decoder(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class ChenAdapted(nn.Module):
    """Reading A: a sixth 3x3 convolution at stride 1; PReLU of one slope in the encoder."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [3, 32, 64, 128, 256, 512, 512]
        strides = [2, 2, 2, 2, 2, 1]
        for a, b, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [conv(a, b, stride=stride), nn.BatchNorm2d(b), nn.PReLU()]
        self.encoder = nn.Sequential(*layers)
        self.decoder = fcn_decoder(512, 34)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class ResNetFCN(nn.Module):
    """ResNet-50 at stride 32 and the FCN's decoder: chen2020's transfer, xiang2020's backbone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = resnet_layers("resnet50")
        self.decoder = fcn_decoder(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class ChenUNet(nn.Module):
    """Bottleneck of 512, up-convolutions that keep the width, last stage of 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0 = twice(conv_bn_relu, 3, 64)
        self.enc1 = twice(conv_bn_relu, 64, 128)
        self.enc2 = twice(conv_bn_relu, 128, 256)
        self.enc3 = twice(conv_bn_relu, 256, 512)
        self.enc4 = twice(conv_bn_relu, 512, 512)
        self.up3, self.dec3 = double(512, 512), twice(conv_bn_relu, 1024, 256)
        self.up2, self.dec2 = double(256, 256), twice(conv_bn_relu, 512, 128)
        self.up1, self.dec1 = double(128, 128), twice(conv_bn_relu, 256, 64)
        self.up0, self.dec0 = double(64, 64), twice(conv_bn_relu, 128, 16)
        self.classifier = nn.Conv2d(16, 34, 1)

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.enc0(x)
        x1 = self.enc1(F.max_pool2d(x0, 2, 2))
        x2 = self.enc2(F.max_pool2d(x1, 2, 2))
        x3 = self.enc3(F.max_pool2d(x2, 2, 2))
        x4 = self.enc4(F.max_pool2d(x3, 2, 2))
        y = self.dec3(torch.cat([x3, self.up3(x4)], 1))
        y = self.dec2(torch.cat([x2, self.up2(y)], 1))
        y = self.dec1(torch.cat([x1, self.up1(y)], 1))
        y = self.dec0(torch.cat([x0, self.up0(y)], 1))
        return self.classifier(y)


# fixman2024 --------------------------------------------------------------------------------------


class SimpleFCN(nn.Module):
    """Three convolutions with pooling; three bare transposed convolutions, the last to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 64), conv(64, 128), conv(128, 256)
        self.up1, self.up2, self.up3 = double(256, 128), double(128, 64), double(64, 34)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        return self.up3(self.up2(self.up1(x)))


class FixmanUp(nn.Module):
    """Transposed 2x2, [skip, up], two blocks."""

    def __init__(self, block: Callable[[int, int], nn.Module], cin: int, size: int) -> None:
        super().__init__()
        self.up = double(cin, size)
        self.blocks = twice(block, 2 * size, size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blocks(torch.cat([skip, self.up(x)], 1))


class UNetNoBatchNorm(nn.Module):
    """The classic U-Net of 64 to 1024 channels, convolution and ReLU only."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 64, 128, 256, 512]
        pairs = pairwise(widths)
        self.down = nn.ModuleList(twice(conv_relu, a, b) for a, b in pairs)
        self.bottleneck, self.dottleneck = conv_relu(512, 1024), conv_relu(1024, 1024)
        self.up = nn.ModuleList(FixmanUp(conv_relu, 2 * s, s) for s in (512, 256, 128, 64))
        self.final = nn.Conv2d(64, 34, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.dottleneck(self.bottleneck(x))
        for up in self.up:
            x = up(x, skips.pop())
        return self.final(x)


class Swin2JNet(nn.Module):
    """SwinV2-B on a square of `size`, a U-Net decoder with dropout, logits resized back."""

    def __init__(self, size: int = 768, dropout: float = 0.05) -> None:
        super().__init__()
        self.size = size
        self.backbone = timm.create_model(
            "swinv2_base_window8_256", pretrained=False, features_only=True, img_size=size
        )

        def block(cin: int, cout: int) -> nn.Sequential:
            return nn.Sequential(*conv_bn_relu(cin, cout), nn.Dropout2d(dropout))

        self.bottleneck, self.dottleneck = block(1024, 1024), block(1024, 1024)
        self.dec3 = FixmanUp(block, 1024, 512)
        self.dec2 = FixmanUp(block, 512, 256)
        self.dec1 = FixmanUp(block, 256, 128)
        self.final1 = nn.Sequential(double(128, 64), *twice(block, 64, 64))
        self.final2 = nn.Sequential(double(64, 32), *twice(block, 32, 32))
        self.final3 = nn.Conv2d(32, 34, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = torchvision.transforms.Resize((self.size, self.size))(x)
        f1, f2, f3, f4 = (f.permute(0, 3, 1, 2) for f in self.backbone(x))
        y = self.dottleneck(self.bottleneck(f4))
        y = self.dec1(self.dec2(self.dec3(y, f3), f2), f1)
        y = self.final3(self.final2(self.final1(y)))
        return resize(y, [height, width], InterpolationMode.BILINEAR)


# mei2019 -----------------------------------------------------------------------------------------


class SegNet(nn.Module):
    """VGG16-style SegNet; its last unit too is convolution, batch norm and ReLU."""

    def __init__(self, classes: int = 19) -> None:
        super().__init__()
        down = [
            [3, 64, 64],
            [64, 128, 128],
            [128, 256, 256, 256],
            [256, 512, 512, 512],
            [512, 512, 512, 512],
        ]
        up = [
            [512, 512, 512, 512],
            [512, 512, 512, 256],
            [256, 256, 256, 128],
            [128, 128, 64],
            [64, 64, classes],
        ]
        self.down = nn.ModuleList(self.stage(widths) for widths in down)
        self.up = nn.ModuleList(self.stage(widths) for widths in up)

    @staticmethod
    def stage(widths: list[int]) -> nn.Sequential:
        pairs = pairwise(widths)
        return nn.Sequential(*(conv_bn_relu(a, b) for a, b in pairs))

    def forward(self, x: Tensor) -> Tensor:
        indices = []
        for stage in self.down:
            x, where = F.max_pool2d(stage(x), 2, 2, return_indices=True)
            indices.append(where)
        for stage in self.up:
            x = stage(F.max_unpool2d(x, indices.pop(), [2, 2], [2, 2]))
        return x


class SegNetBasic(nn.Module):
    """Four flat 7x7 stages of 64 channels, no ReLU in the decoder, no bias in a convolution."""

    def __init__(self, classes: int = 19) -> None:
        super().__init__()

        def stage(cin: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(cin, 64, 7, padding=3, bias=False), nn.BatchNorm2d(64))

        self.down = nn.ModuleList(stage(cin) for cin in (3, 64, 64, 64))
        self.up = nn.ModuleList(stage(64) for _ in range(4))
        self.classifier = nn.Conv2d(64, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        indices = []
        for stage in self.down:
            x, where = F.max_pool2d(F.relu(stage(x)), 2, 2, return_indices=True)
            indices.append(where)
        for stage in self.up:
            x = stage(F.max_unpool2d(x, indices.pop(), [2, 2], [2, 2]))
        return self.classifier(x)


class MeiDeepLabV3(nn.Module):
    """ResNet-101 at stride 16 (layer4 dilated 1, 2, 2), ASPP of kernel `k`, fused to 256."""

    def __init__(self, rates: tuple[int, ...], k: int = 3, classes: int = 19) -> None:
        super().__init__()
        resnet = torchvision.models.resnet101(
            weights=None, replace_stride_with_dilation=[False, False, True]
        )
        self.backbone = nn.Sequential(*list(resnet.children())[:-2])
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.05

        def branch(cin: int, kernel: int = 1, rate: int = 1) -> nn.Sequential:
            padding = (kernel - 1) * rate // 2
            layer = nn.Conv2d(cin, 256, kernel, padding=padding, dilation=rate, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(256, momentum=0.0003), nn.ReLU())

        self.one = branch(2048)
        self.atrous = nn.ModuleList(branch(2048, k, rate) for rate in rates)
        self.pooled = branch(2048)
        self.fuse = branch(256 * (len(rates) + 2))
        self.classifier = nn.Conv2d(256, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        f = self.backbone(x)
        parts = [self.one(f), *(branch(f) for branch in self.atrous)]
        parts.append(bilinear(self.pooled(f.mean((2, 3), keepdim=True)), f.shape[-2:]))
        return bilinear(self.classifier(self.fuse(torch.cat(parts, 1))), x.shape[-2:])


# xiang2020 ---------------------------------------------------------------------------------------


class XiangASPP(nn.Module):
    """All biased; a bare 1x1 branch; the result, class scores too, through batch norm and ReLU."""

    def __init__(self, cin: int, cout: int, h: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(cin, h, 1)
        self.atrous = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(cin, h, 3, padding=rate, dilation=rate), nn.BatchNorm2d(h), nn.ReLU()
            )
            for rate in (6, 12, 18)
        )
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(cin, h, 1), nn.BatchNorm2d(h), nn.ReLU()
        )
        self.fuse = nn.Sequential(nn.Conv2d(5 * h, cout, 1), nn.BatchNorm2d(cout), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.one(x), *(branch(x) for branch in self.atrous)]
        parts.append(bilinear(self.pool(x), x.shape[-2:]))
        return self.fuse(torch.cat(parts, 1))


def upsample_conv(cin: int, cout: int) -> nn.Sequential:
    """Bilinear to twice the size with aligned corners, 3x3 convolution, batch norm, ReLU."""
    upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(upsample, *conv_bn_relu(cin, cout))


class XiangUNet(nn.Module):
    """UNet_BN; with `aspp`, ASPPs replace decoder stage 3, and stage 4 with the classifier."""

    def __init__(self, classes: int = 19, *, aspp: bool = False) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(conv(3, 64), nn.ReLU(), *conv_bn_relu(64, 64))
        self.layer2 = twice(conv_bn_relu, 64, 128)
        self.layer3 = twice(conv_bn_relu, 128, 256)
        self.layer4 = twice(conv_bn_relu, 256, 512)
        self.layer5 = twice(conv_bn_relu, 512, 1024)
        self.up1, self.layer6 = upsample_conv(1024, 512), twice(conv_bn_relu, 1024, 512)
        self.up2, self.layer7 = upsample_conv(512, 256), twice(conv_bn_relu, 512, 256)
        self.up3, self.up4 = upsample_conv(256, 128), upsample_conv(128, 64)
        self.layer8: nn.Module
        self.layer9: nn.Module
        if aspp:
            self.layer8 = XiangASPP(256, 128, h=128)
            self.layer9 = XiangASPP(128, classes, h=classes)
        else:
            self.layer8 = twice(conv_bn_relu, 256, 128)
            self.layer9 = nn.Sequential(*twice(conv_bn_relu, 128, 64), nn.Conv2d(64, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.layer1(x)
        x2 = self.layer2(F.max_pool2d(x1, 2))
        x3 = self.layer3(F.max_pool2d(x2, 2))
        x4 = self.layer4(F.max_pool2d(x3, 2))
        y = self.layer5(F.max_pool2d(x4, 2))
        y = self.layer6(torch.cat([x4, self.up1(y)], 1))
        y = self.layer7(torch.cat([x3, self.up2(y)], 1))
        y = self.layer8(torch.cat([x2, self.up3(y)], 1))
        return self.layer9(torch.cat([x1, self.up4(y)], 1))


class XiangDeeplab(nn.Module):
    """ResNet-101 at stride 32, one ASPP with 256 hidden channels straight to the classes."""

    def __init__(self, classes: int = 19) -> None:
        super().__init__()
        self.backbone = resnet_layers("resnet101")
        self.aspp = XiangASPP(2048, classes, h=256)

    def forward(self, x: Tensor) -> Tensor:
        return bilinear(self.aspp(self.backbone(x)), x.shape[-2:])


class XiangDeeplabYXY(nn.Module):
    """ResNet-50 at stride 8; the ASPPs of layer4 and layer3 are summed and resized eightfold."""

    def __init__(self, classes: int = 19) -> None:
        super().__init__()
        resnet = torchvision.models.resnet50(
            weights=None, replace_stride_with_dilation=[False, True, True]
        )
        children = list(resnet.children())[:-2]
        self.to_layer3, self.layer4 = nn.Sequential(*children[:-1]), children[-1]
        self.aspp4 = XiangASPP(2048, classes, h=256)
        self.aspp3 = XiangASPP(1024, classes, h=256)

    def forward(self, x: Tensor) -> Tensor:
        f3 = self.to_layer3(x)
        return bilinear(self.aspp4(self.layer4(f3)) + self.aspp3(f3), x.shape[-2:])


class TorchvisionDeepLabV3(nn.Module):
    """torchvision's deeplabv3_resnet50 without its auxiliary head."""

    def __init__(self, classes: int = 19) -> None:
        super().__init__()
        self.net = torchvision.models.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=classes, aux_loss=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)["out"]
