"""Networks of cell spaces: sizes as published, and the laws of shared weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluators.compose import recalibrate
from evaluators.count import parameters
from evaluators.supernets.cell_networks import DartsNetwork, Macro, NasBench201Network, chosen
from evaluators.supernets.cells import CellSupernet
from search_spaces.cells import CellPlan, DartsSpace, Edge, NasBench201Space, darts_space, nasbench201_space

# (operation, source) in pairs per node: the cells that DARTS published as its second-order result
DARTS_V2 = (
    "sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 1 skip_connect 0 skip_connect 0 dil_conv_3x3 2",
    "max_pool_3x3 0 max_pool_3x3 1 skip_connect 2 max_pool_3x3 1 max_pool_3x3 0 skip_connect 2 skip_connect 2 max_pool_3x3 1",
)
SMALL = Macro(channels=4, cells=3)
KINDS = {"darts": (DartsNetwork, darts_space()), "nasbench201": (NasBench201Network, nasbench201_space())}
Kind = tuple[type[DartsNetwork | NasBench201Network], DartsSpace | NasBench201Space]
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def plans(kind: Kind, count: int, seed: int = 0) -> list[CellPlan]:
    rng = np.random.default_rng(seed)
    return [kind[1].decode(kind[1].sample(rng)) for _ in range(count)]


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 16, 16, generator=generator), torch.randint(10, (4,), generator=generator)


def supernet(kind: Kind) -> CellSupernet:
    torch.manual_seed(0)
    return CellSupernet(kind[0], SMALL)


def test_the_published_darts_network_has_its_published_size() -> None:
    cells = []
    for text in DARTS_V2:
        words = text.split()
        edges = [Edge(int(source), operation) for operation, source in zip(words[::2], words[1::2], strict=True)]
        cells.append(tuple(tuple(edges[at : at + 2]) for at in range(0, 8, 2)))
    with torch.device("meta"):
        network = DartsNetwork(chosen(CellPlan(tuple(cells))), Macro(36, 20, affine=True))
    assert parameters(network) == 3_349_342


@pytest.mark.parametrize(("operation", "size"), [("nor_conv_3x3", 1_531_546), ("skip_connect", 73_306)])
def test_networks_of_nasbench201_have_their_published_sizes(operation: str, size: int) -> None:
    edges = [[(i, operation) for i in range(node)] for node in (1, 2, 3)]
    with torch.device("meta"):
        assert parameters(NasBench201Network([edges], Macro(16, 5, affine=True))) == size


@every_kind
def test_a_view_shares_storage_and_an_extracted_network_computes_the_same(kind: Kind) -> None:
    made, (images, labels) = supernet(kind), batch()
    made.train_step(plans(kind, 2), images, labels, 0.1)
    owned = {p.untyped_storage().data_ptr() for p in made.network.parameters()}
    for plan in plans(kind, 3, 1):
        view, alone = made.view(plan), made.extract(plan)
        assert all(p.untyped_storage().data_ptr() in owned for p in view.parameters())
        assert not owned & {p.untyped_storage().data_ptr() for p in alone.parameters()}
        for module in (view, alone):
            recalibrate(module, [images], ranges=False)
        with torch.no_grad():
            torch.testing.assert_close(view(images), alone(images), rtol=1e-6, atol=1e-6)


@every_kind
def test_operations_that_no_plan_uses_keep_every_bit(kind: Kind) -> None:
    made, (images, labels) = supernet(kind), batch()
    for seed in range(2):  # some momentum to be carried on
        made.train_step(plans(kind, 4, seed), images, labels, 0.1)
    before = {name: tensor.clone() for name, tensor in made.state().items()}
    wanted = plans(kind, 1, 9)
    active = made.active(wanted)
    made.train_step(wanted, images, labels, 0.1)
    moved = {name.partition(":")[2] for name, tensor in made.state().items() if not torch.equal(tensor, before[name])}
    assert moved <= active.keys() and 0.5 * len(active) < len(moved) < 0.7 * len(before) / 2
    assert all(name in active for name in moved)


@every_kind
def test_a_state_put_back_trains_on_equally(kind: Kind) -> None:
    first, second, (images, labels) = supernet(kind), supernet(kind), batch()
    first.train_step(plans(kind, 1), images, labels, 0.1)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for made in (first, second):
        made.train_step(plans(kind, 1, 5), images, labels, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))
