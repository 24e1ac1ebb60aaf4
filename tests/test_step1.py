"""Step 1 predicts loss increases in closed form: its statistics and sums equal those computed the long way."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import named
from torch import nn

from evaluators.describe import trace
from evaluators.factorise import svd
from evaluators.gradients import Gradients, collect_gradients
from evaluators.layers import TransposedConv2d
from evaluators.loss_tables import LossTables
from evaluators.saliency import Ranking, fisher, l1, rank
from evaluators.statistics import collect
from evaluators.step1 import COHERENT, build_tables
from evaluators.step1_file import read_step1, write_step1
from evaluators.unfolding import unfold
from search_spaces.costs import costs
from search_spaces.genes import FactorGene, WidthGene
from search_spaces.options import SpaceOptions, build_space
from search_spaces.sparsity import Pattern
from search_spaces.tables import summed

OPTIONS = SpaceOptions(
    criteria=("fisher", "l1"),
    activation_bits=(4, 8, 32),
    factors=("svd", "tucker2", "spatial", "cp", "tt2"),
    codebooks=("symmetric", "ternary", "kmeans"),
    roundings=("nearest", "gptq"),
    ranges=("percentile", "mse"),
    sparsity=(Pattern(2, 4),),
)


def test_statistics_equal_a_direct_computation() -> None:
    """Per-sample gradients of a small network, one image at a time, with the labels that `collect` draws from its seed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    images = torch.randn(12, 2, 6, 6)
    found = collect(net, ["0", "3"], images, seed=5, batch=4)
    labels_from = torch.Generator().manual_seed(5)
    labels = torch.cat([torch.multinomial(net(b).softmax(1), 1, generator=labels_from)[:, 0] for b in images.split(4)])
    gradients = {"0": torch.zeros(3, 3), "3": torch.zeros(4, 4)}
    taylor = {"0": torch.zeros(3, 3, 2, 3, 3), "3": torch.zeros(3, 4, 27)}
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        hidden = net[0](image[None])
        logits = net[3](net[2](net[1](hidden)))
        loss = F.cross_entropy(logits, label[None])
        weights = (net[0].weight, net[3].weight)
        by_hidden, by_logits, *by_weights = torch.autograd.grad(loss, (hidden, logits, *weights))
        gradients["0"] += torch.einsum("oij,pij->op", by_hidden[0], by_hidden[0]) / 12
        gradients["3"] += torch.outer(by_logits[0], by_logits[0]) / 12
        for name, weight, gradient in zip(("0", "3"), weights, by_weights, strict=True):
            taylor[name][at // 4] += gradient * weight.detach()
    inputs = {
        "0": F.unfold(images, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1),
        "3": net[:3](images).detach(),
    }
    for name, x in inputs.items():
        torch.testing.assert_close(found[name].output_gradient, gradients[name], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found[name].input_covariance, x.T.cov(correction=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[name].input_mean, x.mean(0), rtol=1e-4, atol=1e-6)
        assert found[name].input_range.tolist() == pytest.approx([min(0, float(x.min())), float(x.max())])
        per_batch = taylor[name].flatten(2).sum(2).square().mean(0)
        torch.testing.assert_close(found[name].taylor, per_batch, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, stride=2),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        TransposedConv2d(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)),
        TransposedConv2d(nn.ConvTranspose2d(4, 6, (2, 3), stride=(1, 3), dilation=2)),
    ],
)
def test_unfolded_inputs_times_weights_are_the_outputs(layer: nn.Conv2d) -> None:
    images = torch.randn(2, 4, 7, 7)
    outputs = layer(images) - layer.bias.view(1, -1, 1, 1)
    product = unfold(layer, images) @ layer.weight.flatten(1).T
    torch.testing.assert_close(product, outputs.permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-4, atol=1e-5)


@cache
def study() -> tuple[LossTables, Ranking, Gradients]:
    net = named("digits_cnn")
    space = build_space(net.network, OPTIONS)
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = collect(net.model, [layer.name for layer in net.network.layers], images, seed=0)
    gradients = collect_gradients(net.model, net.network, found, images, seed=2)
    ranking = rank(net.trace, net.model, found, {"fisher": fisher, "l1": l1})
    return build_tables(space, net.model, net.trace, found, gradients, ranking), ranking, gradients


def loss(tables: LossTables, codes: np.ndarray) -> np.ndarray:
    return tables.score(codes)["predicted_loss_increase"]


def test_the_uncompressed_network_loses_nothing_and_nothing_gains() -> None:
    tables, *_ = study()
    rng = np.random.default_rng(0)
    population = np.array([tables.space.anchors()[0], *(tables.space.sample(rng) for _ in range(300))])
    assert loss(tables, population)[0] == 0
    assert (loss(tables, population)[1:] > 0).all()


def test_every_step_of_compression_costs() -> None:
    """From the whole network, each ordinal gene one allele lower at a time. Channels lost together may make up for each other."""
    tables, *_ = study()
    full = np.array(tables.space.anchors()[0])
    for at, (cardinality, ordinal) in enumerate(zip(tables.space.cardinalities, tables.space.ordinal, strict=True)):
        if ordinal:
            codes = np.tile(full, (cardinality, 1))
            codes[:, at] = np.arange(cardinality)[::-1]
            values = loss(tables, codes)
            steps = values[[0, -1]] if tables.space.names[at].startswith("width") else values
            assert (np.diff(steps) > 0).all(), tables.space.names[at]


def test_terms_are_the_shifts_of_the_real_changes() -> None:
    """One factorisation and one width: recomputed from the weights that the network really loses."""
    tables, ranking, gradients = study()
    space, net = tables.space, named("digits_cnn")
    full = np.array(space.anchors()[0])
    factor = space.names.index("factor:down")
    choice = space.genes[factor]
    assert isinstance(choice, FactorGene) and choice.options[1].method == "svd"
    codes = full.copy()
    codes[factor] = 1
    (rank_of,) = space.decode(tuple(codes)).factors[0].ranks
    first, second = (part.weight.detach().flatten(1) for part in svd(net.model.down, (rank_of,)))
    change = second @ first - net.model.down.weight.detach().flatten(1)
    expected = float(gradients.layers["down"].shifts(change).square().mean())
    assert loss(tables, codes[None])[0] == pytest.approx(expected, rel=1e-4)

    width = space.names.index("width:block1.conv1")
    gene = space.genes[width]
    assert isinstance(gene, WidthGene)
    alone = []
    for allele in (1, 2):
        codes = full.copy()
        codes[width] = allele
        kept = ranking.keep("block1.conv1", "fisher", gene.kept[allele])
        change = -net.model.block1.conv2.weight.detach().clone()
        change[:, list(kept)] = 0
        plain = float(gradients.layers["block1.conv2"].shifts(change.flatten(1)).square().mean())
        alone.append(loss(tables, codes[None])[0] / plain)
    assert alone[0] == pytest.approx(alone[1], rel=1e-4) and 0.5 < alone[0] < 4, "the coherence of widths"


def test_losses_add_up_over_what_is_left_of_the_network() -> None:
    """Contributions sum to the score, and a layer that goes with its block costs nothing more."""
    tables, *_ = study()
    codes = np.random.default_rng(1).integers(0, tables.space.cardinalities, (200, len(tables.space.genes)))
    np.testing.assert_allclose(tables.contributions(codes).sum(axis=1), loss(tables, codes), rtol=1e-9)
    skips = [at for at, name in enumerate(tables.space.names) if name.startswith("skip:")]
    inside = [t for t in tables.terms if t.kind not in COHERENT]
    assert skips and inside
    block = tables.space.network.block(tables.space.names[skips[0]].removeprefix("skip:"))
    columns = [at for at, t in enumerate(tables.terms) if t.layer in block.layers and t.kind != "skip"]
    parts = tables.contributions(codes)[:, columns].sum(axis=1)
    assert (parts[codes[:, skips[0]] == 1] == 0).all() and (parts[codes[:, skips[0]] == 0] > 0).all()


def test_what_is_searched_gene_by_gene_is_the_score() -> None:
    """The tables of single terms, with the weights of the terms that own them."""
    tables, *_ = study()
    model = tables.separable
    codes = np.random.default_rng(2).integers(0, tables.space.cardinalities, (100, len(tables.space.genes)))
    owned = np.zeros((100, len(tables.terms)))
    for owner, table in zip(model.owners, model.terms, strict=True):
        owned[:, owner] += summed([table], codes, 1)[:, 0]
    np.testing.assert_allclose(owned, tables.contributions(codes), rtol=1e-9)


def test_scoring_runs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, *_ = study()

    def refuse(*_: object) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(nn.Module, "__call__", refuse)
    codes = np.random.default_rng(0).integers(0, tables.space.cardinalities, (20_000, len(tables.space.genes)))
    scores = tables.score(codes)
    assert all(np.isfinite(values).all() and values.shape == (20_000,) for values in scores.values())
    alone = tables.score(codes[777:778])
    assert all(values[777] == alone[name][0] for name, values in scores.items())
    assert scores["macs"][777] == costs(tables.space.network, tables.space.phenotypes(codes[777:778]))["macs"][0]


def test_tables_survive_their_file(tmp_path: Path) -> None:
    tables, ranking, _ = study()
    write_step1(tmp_path / "step1.safetensors", ranking, tables)
    order, again = read_step1(tmp_path / "step1.safetensors", tables.space, peak=False)
    assert order == ranking
    codes = np.random.default_rng(0).integers(0, tables.space.cardinalities, (50, len(tables.space.genes)))
    np.testing.assert_array_equal(loss(again, codes), loss(tables, codes))
    other = build_space(tables.space.network, SpaceOptions(criteria=("l1",)))
    with pytest.raises(ValueError, match="must keep its space"):
        read_step1(tmp_path / "step1.safetensors", other, peak=False)


def test_a_layer_that_does_not_run_gets_one_sentence() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Unused()
    assert [layer.name for layer in trace(model, torch.zeros(1, 4)).network.layers] == ["used"]
    with pytest.raises(ValueError, match="must run in the forward pass and get a gradient, but got none for idle"):
        collect(model, ["used", "idle"], torch.zeros(2, 4), seed=0)
