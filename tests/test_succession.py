"""A network that goes on from the tuned weights of an earlier one: what is cut, what is kept, and that nothing else matters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from nets import named
from small_run import settings
from test_evaluation import STEPS, evaluator
from torch import nn
from toy import ToyScorer, ToySpace, rows

from evaluators import compression
from evaluators.compose import compose
from evaluators.count import parameters
from evaluators.recovery import Budget
from evaluators.succession import grown, succeed
from evo import api
from evo.archive import step_agreement
from evo.candidates import STEP1, STEP2, Candidate, Evaluation, Predecessor, Status
from evo.config.schema import validate
from evo.loop.lineage import lineage_of
from evo.loop.memory import Memory
from evo.loop.running import RunningAgreement
from evo.loop.scoring import scored_here
from evo.storage.columns import Archive
from evo.storage.rows import EVALUATIONS, from_parquet, from_table, to_parquet, to_table
from evo.storage.run_directory import RunDirectory
from evo.studies.classifier import check_names, climbing
from search_spaces.plan import Bits, CompressionPlan, Mask, Skip, Width

FIRST = CompressionPlan(widths=(Width("stem", 10),))
SECOND = CompressionPlan(widths=(Width("stem", 10), Width("block1.conv1", 6)))
THIRD = replace(SECOND, widths=(Width("stem", 6), Width("block1.conv1", 6)), bits=(Bits("down", 4, 8),))


def shaken(module: nn.Module) -> nn.Module:
    """As tuning leaves it: every number is another one."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=draw))
    return module


@pytest.mark.parametrize("name", ["resnet8", "digits_cnn"])
def test_cutting_on_is_cutting_the_tuned_network(name: str) -> None:
    """Cut at once by both plans, a shaken uncompressed network is what the shaken and cut one becomes when it is cut on."""
    net = named(name)
    groups = net.network.groups
    half = CompressionPlan(widths=tuple(Width(g.name, max(1, g.size // 2)) for g in groups[::2]))
    more = [Width(g.name, max(1, g.size // (3 if at % 2 == 0 else 2))) for at, g in enumerate(groups)]
    blocks = tuple(Skip(block.name) for block in net.network.blocks[:1])
    plan = CompressionPlan(widths=tuple(more), skips=blocks)
    tuned_whole = shaken(compose(net.model, net.trace, net.ranking, CompressionPlan()))
    tuned = compose(tuned_whole, net.trace, net.ranking, half)
    found = succeed(tuned, half, plan, net.model, net.trace, net.ranking, {}).state_dict()
    expected = compose(tuned_whole, net.trace, net.ranking, plan).state_dict()
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet8", "digits_cnn"])
def test_in_the_full_shape_a_cut_network_gives_the_same_logits(name: str) -> None:
    net = named(name)
    plan = CompressionPlan(widths=tuple(Width(g.name, max(1, g.size // 2)) for g in net.network.groups))
    tuned = shaken(compose(net.model, net.trace, net.ranking, plan)).eval()
    full = grown(tuned, plan, net.model, net.trace, net.ranking).eval()
    with torch.no_grad():
        torch.testing.assert_close(full(net.example), tuned(net.example))
    assert parameters(full) == parameters(net.model) > parameters(tuned)
    without = replace(plan, skips=(Skip(net.network.blocks[0].name),))
    with pytest.raises(ValueError, match=r"lost channels alone, .* got one with skips"):
        grown(tuned, without, net.model, net.trace, net.ranking)


def test_the_same_plan_goes_on_with_every_number() -> None:
    net = named("digits_cnn")
    plan = CompressionPlan(widths=(Width("stem", 10),), bits=(Bits("down", 3, 4), Bits("head", 4, 32, "affine")))
    tuned = shaken(compose(net.model, net.trace, net.ranking, plan))
    found = succeed(tuned, plan, plan, net.model, net.trace, net.ranking, {})
    torch.testing.assert_close(dict(found.state_dict()), dict(tuned.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (SECOND, FIRST, "must keep only channels that its predecessor kept, but got channel"),
        (CompressionPlan(masks=(Mask("stem", (0, 1)),)), FIRST, "must keep only channels"),
        (replace(FIRST, bits=(Bits("down", 4, 32),)), SECOND, "only pruned, but got one with bits"),
        (replace(FIRST, skips=(Skip("block2"),)), FIRST, "without block2"),
    ],
)
def test_what_was_lost_does_not_come_back(before: CompressionPlan, after: CompressionPlan, sentence: str) -> None:
    net = named("digits_cnn")
    tuned = compose(net.model, net.trace, net.ranking, before)
    with pytest.raises(ValueError, match=sentence):
        succeed(tuned, before, after, net.model, net.trace, net.ranking, {})


def lineage(*plans: CompressionPlan, seed: int = 1) -> tuple[Predecessor, ...]:
    return tuple(Predecessor(plan, STEP2, seed) for plan in plans)


def test_measures_depend_on_what_came_before_and_not_on_what_is_kept(tmp_path: Path) -> None:
    steps = {**STEPS, STEP2: replace(STEPS[STEP2], tune=Budget(epochs=0.3, batch=32, lr=0.05), save=True)}
    chain = lineage(FIRST, SECOND)
    plain = evaluator(steps=steps).evaluate(THIRD, STEP2, 1)
    found = evaluator(steps=steps).after(chain).evaluate(THIRD, STEP2, 1)
    assert found["epochs"] == pytest.approx(0.9) and plain["epochs"] == 0.3
    assert found["cross_entropy"] < plain["cross_entropy"] and found["macs"] == plain["macs"]
    assert found != evaluator(steps=steps).after(lineage(FIRST, SECOND, seed=2)).evaluate(THIRD, STEP2, 1)
    kept = evaluator(tmp_path, steps=steps)
    assert [kept.after(chain[:n]).evaluate(plan, STEP2, 1) for n, plan in enumerate((FIRST, SECOND, THIRD))][2] == found
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:  # what is missing is made again, equally
        file.unlink()
    assert kept.after(chain).evaluate(THIRD, STEP2, 1) == found and sorted(tmp_path.iterdir()) == files


def test_a_kept_network_is_loaded_without_a_look_at_its_predecessors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {STEP2: replace(STEPS[STEP2], save=True)}
    found = evaluator(tmp_path, steps=steps).after(lineage(FIRST)).evaluate(SECOND, STEP2, 1)
    monkeypatch.setattr(compression, "tune", None)
    monkeypatch.setattr(compression, "succeed", None)
    assert evaluator(tmp_path, steps=steps).after(lineage(FIRST)).evaluate(SECOND, STEP2, 1) == found


def test_where_no_folder_keeps_weights_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a run directory in an object store: a chain of three costs three tunes and not six."""
    tuned: list[int] = []
    monkeypatch.setattr(compression, "tune", lambda *_: tuned.append(1))
    one = evaluator(steps={STEP2: replace(STEPS[STEP2], save=True)})
    chain = lineage(FIRST, SECOND)
    found = [one.after(chain[:n]).evaluate(plan, STEP2, 1) for n, plan in enumerate((FIRST, SECOND, THIRD))]
    assert len(tuned) == 3
    fresh = replace(one, _newest={}).after(chain)
    assert fresh.evaluate(THIRD, STEP2, 1) == found[2] and len(tuned) == 6


def done(name: str, predecessor: str = "", genome: tuple[int, ...] = (1, 1, 1, 1, 1, 1)) -> Evaluation:
    return Evaluation(Candidate(name, 0, genome, STEP2, predecessor=predecessor), Status.COMPLETED, {"error": 0.5})


def test_a_lineage_is_told_from_the_archive() -> None:
    space = ToySpace()
    genomes = [(0,) * len(space.cardinalities), (1,) * len(space.cardinalities)]
    archive = Archive.of((done("a", "", genomes[0]), done("b", "a@step2", genomes[1]), done("x", "", genomes[1])))
    found = lineage_of(space, 3, replace(archive[2].candidate, id="c", predecessor="b@step2"), archive)
    assert [p.plan for p in found] == [space.decode(genome) for genome in genomes]
    assert lineage_of(space, 3, archive[0].candidate, archive) == ()
    assert lineage_of(space, 4, replace(archive[2].candidate, predecessor="b@step2"), archive)[0].seed != found[0].seed
    with pytest.raises(ValueError, match="must be a completed evaluation of this search, but got z@step2"):
        lineage_of(space, 3, replace(archive[0].candidate, predecessor="z@step2"), archive)


def test_equal_genomes_with_other_predecessors_are_other_work() -> None:
    genome = (1,) * len(ToySpace().cardinalities)
    memory = Memory(ToySpace())
    memory.add(done("a", "p@step2", genome))
    again = Candidate("b", 1, genome, STEP2, predecessor="p@step2")
    assert memory.find(again) is not None and memory.find(replace(again, predecessor="")) is None


def test_a_scorer_that_knows_no_tuned_network_is_not_asked_about_one() -> None:
    archive = Archive.of((done("a"),))
    beyond = Candidate("b", 1, (1,) * len(ToySpace().cardinalities), STEP1, predecessor="a@step2")
    with pytest.raises(TypeError, match="must have the method after, but got ToyScorer"):
        list(scored_here({STEP1: ToyScorer()}, ToySpace(), 7, [beyond], archive))


def test_predictions_beyond_a_tuned_network_are_compared_with_nothing() -> None:
    measured = [
        replace(done(name), measures={"error": error}) for name, error in zip("abc", (0.1, 0.2, 0.3), strict=True)
    ]
    guessed = [replace(e, candidate=replace(e.candidate, step=STEP1)) for e in measured]
    guessed[0] = replace(
        guessed[0], candidate=replace(guessed[0].candidate, predecessor="z@step2"), measures={"error": 9.0}
    )
    running = RunningAgreement(STEP1, "error", STEP2, "error")
    running.add((*guessed, *measured))
    found = step_agreement((*guessed, *measured), STEP1, STEP2, "error", "error")
    assert (found.tau, found.pairs) == (running.value.tau, running.value.pairs) == (1.0, 2)


def test_rows_from_before_there_were_predecessors_have_none() -> None:
    evaluations = (done("a"), done("b", "a@step2"))
    table = to_table(evaluations)
    assert from_table(table) == evaluations
    old = table.drop_columns(["predecessor"])
    assert from_table(old) == tuple(replace(e, candidate=replace(e.candidate, predecessor="")) for e in evaluations)
    assert from_parquet(to_parquet(old)).schema.equals(EVALUATIONS)
    assert from_parquet(to_parquet(pa.table({"key": ["foreign"]}))).column_names == ["key"]


def layer_by_layer() -> dict[str, Any]:
    values = settings(None)
    values["space"] = {
        "channel_codes": True,
        "weight_bits": [],
        "activation_bits": [],
        "factors": [],
        "skip_blocks": False,
    }
    values["algorithm"] = {"name": "layerwise", "params": {"targets": [0.6], "population": 4, "generations": 1}}
    values["evaluation"]["step1"]["codes"] = "reconstruction"
    values["evaluation"]["step2"]["tune"] = {"epochs": 0.2, "batch": 32, "lr": 0.05}
    values["evaluation"]["final"]["picks"] = ["macs<=0.6x"]
    return values


def test_layer_by_layer_each_network_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """Stopped after every layer, and without the kept weights, it ends with the archive of the uninterrupted search."""
    values = layer_by_layer()
    values["budget"] = {"generations": 99}
    whole = api.run_config(validate(values), str(tmp_path / "whole"))
    measured = [e.candidate for e in whole.evaluations if e.candidate.step == STEP2]
    assert len(measured) > 2 and all(e.completed for e in whole.evaluations)
    assert [c.predecessor for c in measured] == ["", *(c.key for c in measured[:-1])]
    scored = {e.candidate.predecessor for e in whole.evaluations if e.candidate.step == STEP1}
    assert scored == {"", *(c.key for c in measured[:-1])}, "each layer's codes by the network tuned before"
    kept = {file.name.partition("-")[0] for file in (tmp_path / "whole" / "models").glob(f"*-{STEP2}-*")}
    space = whole.problem.space
    assert space.decode(space.repair(measured[-1].genome)).digest in kept
    stopped = str(tmp_path / "stopped")
    values["budget"] = {"generations": 2}
    api.run_config(validate(values), stopped)
    for file in (tmp_path / "stopped" / "models").glob(f"*-{STEP2}-*"):
        file.unlink()
    resumed = api.resume(stopped, ["budget.generations=99"])
    runs = [RunDirectory.open(str(tmp_path / name)) for name in ("whole", "stopped")]
    first, second = (rows(run.committed(run.latest())) for run in runs)
    assert first == second
    exported = resumed.pick("macs<=0.6x").export(tmp_path / "out", "pytorch")
    card = json.loads((exported / "card.json").read_text())
    (final,) = resumed.finals.values()
    assert card["step"] == "final" and final["epochs"] == pytest.approx(0.1 + 0.2 * len(measured))


def test_shared_weights_have_no_predecessors() -> None:
    values = settings(None)
    values["supernet"] = {}
    values["evaluation"]["rungs"] = [{"tune": {"epochs": 0.1}}]
    assert climbing(validate(values)).params["continue_rungs"] is False
    values["algorithm"]["params"]["continue_rungs"] = True
    with pytest.raises(ValueError, match=r"params\.continue_rungs=true; set it to false"):
        check_names(validate(values))
    del values["supernet"]
    check_names(validate(values))
    assert climbing(validate(values)).params == {"promote": 3, "continue_rungs": True, "rungs": ("rung1",)}
