"""Batch normalisation folded into the layer before it: the same outputs, nothing left of the normalisation."""

from __future__ import annotations

import pytest
import torch
from nets import named
from torch import nn

from evaluators.export.folding import plain


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20", "mobilenet_v2"])
def test_folding_changes_no_output(name: str) -> None:
    net = named(name)
    images = torch.randn(4, *net.example.shape[1:], generator=torch.Generator().manual_seed(1))
    found = plain(net.model, images)
    assert found.folded and not any(isinstance(m, nn.BatchNorm2d) for m in found.model.modules())
    with torch.no_grad():
        expected = net.model(images)
        torch.testing.assert_close(found.model(images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.model.modules())
