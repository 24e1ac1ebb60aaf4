"""MobileNetV2 (Sandler et al. 2018) for 32 x 32 images: torchvision's network with two of its five strides left out."""

from __future__ import annotations

from torchvision.models import MobileNetV2

# expansion, channels, blocks, stride of the stages: those of the paper's table 2 but for the second stride
STAGES = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]


def mobilenet_v2(classes: int = 10, width: float = 1.0) -> MobileNetV2:
    """Input (N, 3, 32, 32), output (N, classes) logits; the last convolution works on 4 x 4 places. width multiplies all channels
    (MetaPruning begins with 1.4, so that its widest network is larger than the standard one)."""
    network = MobileNetV2(num_classes=classes, width_mult=width, inverted_residual_setting=STAGES)
    network.features[0][0].stride = (1, 1)
    return network
