"""The networks of the coverage table: families of torchvision and timm, and some as users write them."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Spec:
    """A network with random weights: factory and arguments, side of the square input."""

    factory: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    side: int = 224


def build(spec: Spec) -> nn.Module:
    """The network in eval mode; parameters and statistics that start at one value (0, 1, 1e-6) are drawn anew."""
    torch.manual_seed(0)
    module, _, name = spec.factory.partition(":")
    model: nn.Module = getattr(importlib.import_module(module), name)(**spec.kwargs)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                positive = (
                    name.endswith(("weight", "running_var", "gamma", "gamma1", "gamma2")) or tensor.flatten()[0] != 0
                )
                tensor.uniform_(0.5, 1.5) if positive else tensor.normal_(0, 0.1)
    return model.eval()


class Up(nn.Module):
    """One step of a U-Net's way up: double the size, join what was kept on the way down, two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.convs = double(2 * channels, channels)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        return self.convs(torch.cat([kept, self.up(x)], dim=1))


def double(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with batch normalisation and padded convolutions."""

    def __init__(self, channels: int = 32, classes: int = 2) -> None:
        super().__init__()
        self.first = double(3, channels)
        self.down = nn.ModuleList(double(channels << i, channels << i + 1) for i in range(4))
        self.up = nn.ModuleList(Up(channels << i) for i in (3, 2, 1, 0))
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.first(x)]
        for step in self.down:
            kept.append(step(nn.functional.max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for step in self.up:
            x = step(x, kept.pop())
        return self.head(x)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels), nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class CycleGenerator(nn.Sequential):
    """The generator of CycleGAN (Zhu et al. 2017, appendix): c7s1-64, d128, d256, R256 x blocks, u128, u64, c7s1-3."""

    def __init__(self, blocks: int = 6) -> None:
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, 64, 7), nn.InstanceNorm2d(64), nn.ReLU(True)]
        for c in (64, 128):
            layers += [nn.Conv2d(c, 2 * c, 3, 2, 1), nn.InstanceNorm2d(2 * c), nn.ReLU(True)]
        layers += [Residual(256) for _ in range(blocks)]
        for c in (256, 128):
            layers += [nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1), nn.InstanceNorm2d(c // 2), nn.ReLU(True)]
        super().__init__(*layers, nn.ReflectionPad2d(3), nn.Conv2d(64, 3, 7), nn.Tanh())


class Backbone(nn.Module):
    """ResNet-18 with a feature pyramid, as detectors of torchvision use it: five feature maps."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        made = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
        )
        self.body, self.fpn = made.body, made.fpn

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(self.body(x))


TORCHVISION = """
    alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 mobilenet_v2 mobilenet_v3_small
    efficientnet_b0 efficientnet_v2_s mnasnet0_5 regnet_x_400mf regnet_y_400mf shufflenet_v2_x0_5 squeezenet1_1 convnext_tiny
    vit_b_16 swin_t swin_v2_t maxvit_t
"""
TIMM = """
    resnet10t mobilenetv3_small_050 tf_efficientnet_lite0 ghostnet_100 mobileone_s0 repvgg_a0 convnext_atto convnextv2_atto
    vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 mixer_s32_224 poolformer_s12 levit_128s
    mobilevit_xxs edgenext_xx_small hrnet_w18_small dla34 resnest14d res2net50_14w_8s cspdarknet53 regnetx_002 resnetv2_50
    nfnet_l0 fastvit_t8 efficientformer_l1 rexnet_100
"""
PLAIN = {"aux_logits": False, "init_weights": False}
NETWORKS: dict[str, Spec] = {
    **{name: Spec(f"torchvision.models:{name}", {"weights": None}) for name in TORCHVISION.split()},
    "googlenet": Spec("torchvision.models:googlenet", {"weights": None, **PLAIN}),
    "inception_v3": Spec("torchvision.models:inception_v3", {"weights": None, **PLAIN}, 299),
    "fcn_resnet50": Spec("torchvision.models.segmentation:fcn_resnet50", {"weights": None, "weights_backbone": None}),
    "deeplabv3_mobilenet_v3_large": Spec(
        "torchvision.models.segmentation:deeplabv3_mobilenet_v3_large", {"weights": None, "weights_backbone": None}
    ),
    "resnet18_fpn": Spec("benchmarks.coverage_networks:Backbone"),
    "unet": Spec("benchmarks.coverage_networks:UNet", side=128),
    "cyclegan_generator": Spec("benchmarks.coverage_networks:CycleGenerator", side=128),
    **{f"timm/{name}": Spec("timm:create_model", {"model_name": name, "pretrained": False}) for name in TIMM.split()},
}
