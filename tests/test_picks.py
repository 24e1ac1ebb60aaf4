"""Several members of a front under one name: spread as continuous evolution takes its final networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import settings

from evo import api
from evo.config.schema import validate
from evo.front import FrontPoint
from evo.picks import picked
from evo.result import Result
from search_spaces.plan import CompressionPlan

BASELINE = {"top1_error": 0.1, "macs": 1000.0}
# error, macs: two poor networks, then good ones in the four quarters of 300..1000 but for the third
ROWS = [(0.9, 100), (0.6, 200), (0.45, 300), (0.42, 310), (0.3, 500), (0.28, 600), (0.12, 900), (0.1, 1000)]


def front(rows: list[tuple[float, int]]) -> list[FrontPoint]:
    return [
        FrontPoint(str(i), 0, "step2", {"top1_error": error, "macs": macs}, {}, CompressionPlan(), "")
        for i, (error, macs) in enumerate(rows)
    ]


def ids(spec: str, rows: list[tuple[float, int]] = ROWS) -> list[str]:
    return [point.candidate_id for point in picked(front(rows), spec, BASELINE)]


def test_uniform_takes_the_best_of_every_size_and_leaves_out_the_worse_half_of_errors() -> None:
    assert ids("uniform:4") == ["3", "5", "7"]  # 300..475, 475..650, none in 650..825, 825..1000
    assert ids("uniform:1") == ["7"]
    assert ids("uniform:4", ROWS[:1]) == ["0"]


def test_pareto_takes_as_many_as_asked_for_with_both_ends() -> None:
    assert {"0", "7"} <= set(ids("pareto:4")) and len(ids("pareto:4")) == 4
    assert ids("pareto:4") == ids("pareto:4") and len(ids("pareto:99")) == 8


def test_one_point_is_named_as_before() -> None:
    assert ids("macs<=0.35x") == ["3"] and ids("5") == ["5"]


def test_several_picks_need_a_cost_and_a_number() -> None:
    single = [FrontPoint("a", 0, "step2", {"top1_error": 0.1}, {}, CompressionPlan(), "")]
    with pytest.raises(ValueError, match="several picks spread over an error and a cost, but got objectives="):
        picked(single, "pareto:2", BASELINE)
    values = settings(None)
    values["evaluation"]["final"]["picks"] = ["uniform:0"]
    with pytest.raises(ValueError, match=r"but got 'uniform:0' in evaluation\.final\.picks"):
        api.check_names(validate(values))


@pytest.mark.parametrize("kind", ["uniform", "pareto"])
def test_continuous_evolution_trains_what_was_picked(tmp_path: Path, kind: str) -> None:
    values = settings(None)
    values["space"] = {"widths": [0.25, 0.5, 0.75, 1.0], "weight_bits": [], "activation_bits": [], "factors": []}
    values["model"]["pretrain"] = {"epochs": 4, "batch": 20}
    values["supernet"] = {"warm_up": 4, "epochs": 1, "horizon": 6, "batch": 20, "subnets": 3, "from_teacher": True}
    values["algorithm"] = {"name": "cars", "params": {"population": 6}}
    values["evaluation"]["final"]["picks"] = [f"{kind}:3"]
    result = api.run_config(validate(values), str(tmp_path / "run"))
    chosen = [point.candidate_id for point in picked(result.front, f"{kind}:3", result.baseline)]
    assert set(result.finals) == set(chosen) and 2 <= len(chosen) <= 3
    assert all(final["epochs"] == 0.1 and 0 <= final["test_top1_error"] <= 1 for final in result.finals.values())


def test_picks_are_tuned_anew_where_the_last_step_changed(tmp_path: Path) -> None:
    values = settings(None)
    values["evaluation"]["final"]["picks"] = ["knee"]
    run, notes = tmp_path / "run", list[str]()
    first = api.run_config(validate(values), str(run))

    def resumed(*changes: str) -> Result:
        return api.resume(
            run, [f"evaluation.final.{change}" for change in changes], listeners=api.Listeners(note=notes.append)
        )

    everyone = resumed("picks=[knee, 'macs<=1x']").finals
    assert first.finals.items() <= everyone.items() and not notes_of_change(notes)
    longer = resumed("picks=[knee]", "tune.epochs=0.5")
    assert [final["epochs"] for final in longer.finals.values()] == [0.5] and len(notes_of_change(notes)) == 1
    assert len(list((run / "models").glob("*-final-*"))) == 2  # those of before are not lost
    fewer = resumed("validation=30")
    assert fewer.finals != longer.finals and fewer.final_baseline != longer.final_baseline
    assert resumed("tune.epochs=0.1", "validation=0").finals == first.finals


def notes_of_change(notes: list[str]) -> list[str]:
    return [note for note in notes if "evaluation.final has changed" in note]
