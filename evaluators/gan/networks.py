"""Generators and discriminators of unpaired translation (Zhu et al. 2017, CycleGAN, appendix 7.2), and the pair of generators."""

from __future__ import annotations

import torch
from torch import Tensor, nn

A_TO_B, B_TO_A = "a_to_b", "b_to_a"
DIRECTIONS = (A_TO_B, B_TO_A)


class ResidualBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))), both 3 x 3 with reflected borders."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class ResNetGenerator(nn.Module):
    """c7s1-f, d2f, d4f, R4f x blocks, u2f, uf, c7s1-channels: images (N, channels, H, W) in -1..1 to such images.

    H and W must be divisible by 4.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), *_normed(width))
        self.down1 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), *_normed(2 * width))
        self.down2 = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), *_normed(4 * width))
        self.blocks = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(blocks)))
        self.up1 = nn.Sequential(nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1), *_normed(2 * width))
        self.up2 = nn.Sequential(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), *_normed(width))
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, channels, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        small = self.blocks(self.down2(self.down1(self.stem(x))))
        image: Tensor = self.head(self.up2(self.up1(small)))
        return image


def _normed(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(channels), nn.ReLU()


class PatchDiscriminator(nn.Module):
    """C-f, C-2f, ... and one number per patch, of 70 x 70 pixels with 3 layers: images (N, channels, H, W) to (N, 1, h, w)."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        before = width
        for at in range(1, layers + 1):
            after = width * 2 ** min(at, 3)
            body += [
                nn.Conv2d(before, after, 4, 1 if at == layers else 2, 1),
                nn.InstanceNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
            before = after
        self.body = nn.Sequential(*body, nn.Conv2d(before, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.body(x)
        return patches


class GeneratorPair(nn.Module):
    """Both generators of a cycle as one network, so that one plan, one cost and one export speak of the pair."""

    def __init__(self, a_to_b: nn.Module, b_to_a: nn.Module) -> None:
        super().__init__()
        self.a_to_b = a_to_b
        self.b_to_a = b_to_a

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.a_to_b(a), self.b_to_a(b)


class Discriminators(nn.Module):
    """`a` tells real images of domain A from made ones, `b` those of domain B."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a = a
        self.b = b


def resnet_generator(channels: int = 3, width: int = 64, blocks: int = 9) -> nn.Module:
    """ResNet generator of CycleGAN: 9 blocks for images of 256 x 256 and more, 6 below; weights from N(0, 0.02)."""
    return initialised(ResNetGenerator(channels, width, blocks))


def patch_discriminator(channels: int = 3, width: int = 64, layers: int = 3) -> nn.Module:
    """PatchGAN discriminator of CycleGAN; fewer layers for images below 70 x 70."""
    return initialised(PatchDiscriminator(channels, width, layers))


def initialised(network: nn.Module) -> nn.Module:
    """Weights of all convolutions from N(0, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


class StackedPair(nn.Module):
    """A pair of one input and one output, (N, 2, channels, H, W): images of a and b there, of b and a here."""

    def __init__(self, pair: nn.Module) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, both: Tensor) -> Tensor:
        made_b, made_a = self.pair(both[:, 0], both[:, 1])
        return torch.stack([made_b, made_a], dim=1)
