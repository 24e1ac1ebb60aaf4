"""Latency: the protocol of a measurement, the table behind predictions, every runtime, and a search that minimises it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import known, named
from small_run import evo, settings, write_config
from torch import Tensor, nn

from evaluators.compose import compose, recalibrate
from evaluators.compression import MEASURES
from evaluators.latency import Target, latency
from evaluators.latency.building import build_table
from evaluators.latency.eager import on_gpu
from evaluators.latency.measure import alone_on_this_machine, interleaved
from evaluators.latency.runtime import MOVES, LayerShape, Session
from evaluators.latency.table import Grid, LatencyTable
from evaluators.loss_tables import LossTables
from evo.config.checks import check
from evo.config.schema import LatencySection, load, validate
from evo.front import speed_cells
from evo.registry import RUNTIMES, resolve
from evo.result import load as load_run
from evo.studies.classifier import build_problem
from evo.studies.inputs import space_of
from evo.studies.timing import Timing
from search_spaces.costs import costs
from search_spaces.phenotype import Phenotypes, full
from search_spaces.plan import Bits, CompressionPlan

NS_PER_MAC = 1e-6  # milliseconds


class Ideal:
    """A machine that takes a millionth of a millisecond per multiply-accumulate, half of it in integers."""

    integers = True

    def session(self, module: nn.Module, images: Tensor, threads: int) -> Session:
        raise NotImplementedError

    def layer(self, shape: LayerShape, integer: bool, threads: int) -> Session:
        height, width = (
            (size + 2 * pad - reach * (kernel - 1) - 1) // stride + 1 if kernel else size
            for size, pad, reach, kernel, stride in zip(
                shape.size, shape.padding, shape.dilation, shape.kernel, shape.stride, strict=True
            )
        )
        area = max(1, shape.kernel[0] * shape.kernel[1])
        macs = shape.c_in // shape.groups * shape.c_out * area * height * width * shape.batch
        return lambda: macs * NS_PER_MAC * 1e-3 * (0.5 if integer else 1.0)

    def move(self, kind: str, elements: int, threads: int) -> Session:
        return lambda: 0.0


def ideal() -> Ideal:
    return Ideal()


def random_phenotypes(n: int, name: str) -> Phenotypes:
    """Narrowed and factorised versions of a network, in float32."""
    network = named(name).network
    rng = np.random.default_rng(0)
    found = full(network, n)
    for column, group in enumerate(network.groups):
        found.kept[:, column] = rng.integers(1, group.size + 1, n)
    for column, layer in enumerate(network.layers):
        if layer.groups == 1 and layer.kernel_area > 1:
            found.method[:, column] = rng.integers(0, 3, n)
            found.ranks[:, column] = rng.integers(1, 1 + min(layer.in_channels, layer.out_channels), (n, 2))
    return found


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2"])
def test_on_a_machine_whose_time_is_macs_the_prediction_is_exact(name: str) -> None:
    net = named(name)
    layers = [layer.name for layer in net.network.layers]
    target = Target(runtime=f"{__name__}:ideal", batch=2)
    table = build_table(net.model, layers, net.example.repeat(2, 1, 1, 1), target)
    rows = random_phenotypes(40, name)
    macs = costs(net.network, rows)["macs"]
    if name == "resnet8":
        np.testing.assert_allclose(table.predict(net.network, rows), 2 * NS_PER_MAC * macs, rtol=1e-9)
    dense = full(net.network, 1)
    np.testing.assert_allclose(
        table.predict(net.network, dense), 2 * NS_PER_MAC * costs(net.network, dense)["macs"], rtol=1e-9
    )
    again = LatencyTable.from_json(table.to_json())
    np.testing.assert_array_equal(again.predict(net.network, rows), table.predict(net.network, rows))
    assert table.scaled_to(net.network, 7.0).predict(net.network, dense) == pytest.approx(7.0)


def test_fewer_than_eight_bits_are_predicted_as_eight() -> None:
    net = named("resnet8")
    layers = [layer.name for layer in net.network.layers]
    table = build_table(net.model, layers, net.example, Target(runtime=f"{__name__}:ideal"))

    def at(weight: int, activation: int) -> float:
        rows = full(net.network, 1)
        rows.weight_bits[:], rows.activation_bits[:] = weight, activation
        return float(table.predict(net.network, rows)[0])

    assert at(8, 8) == at(2, 8) == at(5, 4) == pytest.approx(0.5 * at(32, 32))
    assert at(4, 32) == at(32, 8) == at(32, 32)  # without integers on both sides there is no integer kernel


def test_a_grid_is_linear_between_its_points_and_continued_below_them() -> None:
    grid = Grid((2, 4), (1, 3, 9), ((1.0, 3.0, 9.0), (2.0, 6.0, 18.0)))
    found = grid.at(np.array([2, 3, 4, 9, 1, 1]), np.array([3, 2, 6, 99, 3, 0]))
    np.testing.assert_allclose(found, [3.0, 3.0, 12.0, 18.0, 1.5, 0.0])
    np.testing.assert_allclose(Grid((5,), (5,), ((2.5,),)).at(np.array([1, 9]), np.array([1, 9])), 2.5)


def test_a_ratio_survives_a_machine_that_becomes_slower() -> None:
    calls: list[str] = []
    slowness = (1.0 + 0.05 * i for i in count())

    def session(name: str, seconds: float) -> Session:
        def run() -> float:
            calls.append(name)
            return seconds * next(slowness)

        return run

    found = interleaved(session("own", 0.004), session("other", 0.010), 40)
    assert 0.36 < found.low <= found.ratio <= found.high < 0.44
    assert found.measurably_faster
    paired = calls[6:]
    assert all({a, b} == {"own", "other"} for a, b in zip(paired[::2], paired[1::2], strict=True))
    assert paired[0] != paired[2], "who goes first must change"


def test_repeats_go_on_while_the_machine_is_noisy() -> None:
    rng = np.random.default_rng(1)

    def repeats(noise: float) -> int:
        calls = 0

        def run() -> float:
            nonlocal calls
            calls += 1
            return 0.005 * float(rng.uniform(1 - noise, 1 + noise))

        interleaved(run, run, 10)
        return (calls - 6) // 2

    assert repeats(0.001) == 10 and repeats(0.5) == 40


def test_noise_is_not_called_a_gain() -> None:
    rng = np.random.default_rng(0)
    noisy: Iterator[float] = iter(0.005 * rng.uniform(0.5, 1.5, 1000))
    assert not interleaved(lambda: next(noisy), lambda: next(noisy), 20).measurably_faster


def test_only_one_probe_runs_at_a_time() -> None:
    done = threading.Event()

    def probe() -> None:
        interleaved(lambda: 0.002, lambda: 0.002, 5)
        done.set()

    with alone_on_this_machine():
        other = threading.Thread(target=probe)
        other.start()
        assert not done.wait(0.3)
    other.join(30)
    assert done.is_set()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_times_a_network_and_its_layers(name: str) -> None:
    net = named("digits_cnn")
    try:
        runtime = resolve(RUNTIMES, name)()
        plan = CompressionPlan(bits=tuple(Bits(layer.name, 4, 8) for layer in net.network.layers))
        module = compose(net.model, net.trace, net.ranking, plan)
        recalibrate(module, [net.example], ranges=True)
        images = net.example.repeat(4, 1, 1, 1)
        found = latency(module, images, Target(name, repeats=7), net.model)
    except ValueError as missing:
        pytest.skip(str(missing))
    assert 0 < found.milliseconds < 1000 and found.low <= found.ratio <= found.high
    conv = LayerShape(8, 16, (3, 3), (2, 2), (1, 1), (1, 1), 1, (9, 7), 2)
    linear = LayerShape(8, 16, (0, 0), (1, 1), (0, 0), (1, 1), 1, (3, 1), 2)
    for shape in (conv, linear):
        for integer in {False, runtime.integers}:
            assert runtime.layer(shape, integer, 1)() > 0
    for kind in MOVES if runtime.integers else ("add",):
        assert runtime.move(kind, 5000, 1)() > 0


def test_more_work_takes_longer() -> None:
    torch.manual_seed(0)

    def wide(channels: int) -> nn.Module:
        layers = [nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, channels, 3), nn.AdaptiveAvgPool2d(1)]
        return known(nn.Sequential(*layers).eval(), (3, 32, 32)).model

    found = latency(wide(8), torch.rand(1, 3, 32, 32), Target("onnxruntime_fp32", repeats=9), wide(96))
    assert found.ratio < 0.5 and found.measurably_faster


def test_an_unknown_runtime_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "c.yaml", {**settings(None), "latency": {"runtime": "onnxruntime_int9"}})
    answer = evo(capsys, "search", config, "--run-dir", tmp_path / "run")
    assert answer.code == 2 and "did you mean 'onnxruntime_int8'?" in answer.err and not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "c.yaml", {**settings(None), "latency": {"runtime": "cuda"}})
    answer = evo(capsys, "search", config, "--run-dir", tmp_path / "run")
    assert answer.code == 2 and not (tmp_path / "run").exists()
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith(
        "error: latency.runtime=cuda needs a CUDA device, but got none; choose another runtime"
    )


def test_on_a_gpu_the_clock_is_read_when_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that computes when it is waited for: 5 ms of work left over from before, 2 ms of a network."""
    now, queue = [0.0], [0.005]

    def wait() -> None:
        now[0] += sum(queue)
        queue.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Network(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            queue.append(0.002)
            return x

    session = on_gpu(Network(), torch.zeros(1))
    assert session() == pytest.approx(0.002) and session() == pytest.approx(0.002)


@pytest.mark.parametrize("name", ["metapruning", "nsga2"])
def test_a_limit_of_latency_is_met_by_what_is_predicted_before_anything_is_measured(name: str) -> None:
    net = named("resnet8")
    values = settings(None)
    values["space"] |= {"activation_bits": [8, 32], "weight_bits": [8, 32]}
    values["objectives"] = [{"measure": "top1_error"}]
    values["constraints"] = [{"measure": "latency_ms", "upper": "0.4x"}]
    config = validate(values)
    layers = [layer.name for layer in net.network.layers]
    table = build_table(net.model, layers, net.example, Target(runtime=f"{__name__}:ideal"))
    whole = float(table.predict(net.network, full(net.network, 1))[0])
    space = space_of(config, net.network, net.model)
    tables = LossTables(space, ())
    measured = {"top1_error": 0.1, "latency_ms": whole}
    problem = build_problem(config, space, tables, measured, Timing(whole, table))
    algorithm = resolve("algorithms", name)(problem, population=40)
    batch, _ = algorithm.ask(algorithm.init(0))
    predicted = table.predict(net.network, space.phenotypes(np.array([c.genome for c in batch.candidates])))
    assert len(predicted) == 40 and (predicted <= 0.4 * whole).all() and predicted.max() > 0.3 * whole
    alone = build_problem(config, space, tables, measured).space
    assert alone is space, "without a table nothing can be foretold"


def test_a_latency_objective_brings_its_section_with_it() -> None:
    config = load(Path(__file__).parent.parent / "configs" / "resnet20_cifar10_latency.yaml")
    check(config, MEASURES)
    assert config.timed == config.latency
    plain = {**config.model_dump(), "latency": None}
    assert validate(plain).timed == LatencySection()
    assert validate({**plain, "objectives": [{"measure": "macs"}]}).timed is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_search_minimises_latency_and_never_measures_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = settings(None)
    values["space"] |= {"activation_bits": [8, 32], "weight_bits": [4, 8, 32]}
    values["objectives"] = [{"measure": "top1_error", "reference": 1.0}, {"measure": "latency_ms"}]
    values["latency"] = {"repeats": 5, "batch": 4}
    config = write_config(tmp_path / "c.yaml", values)
    run = tmp_path / "run"
    answer = evo(capsys, "search", config, "--run-dir", run, "--quiet")
    assert answer.code == 0, answer.err
    assert "latency x" in answer.out and "predicted x" in answer.out and "macs x" in answer.out
    found = load_run(str(run))
    rows = [speed_cells(point.measures, found.baseline) for point in found.front]
    assert rows and all(len(row) == 3 and min(map(float, row)) > 0 for row in rows)
    front = json.loads(evo(capsys, "front", run, "--json").out)
    assert all(p["measures"]["predicted_latency_ms"] > 0 and p["objectives"]["latency_ms"] > 0 for p in front)
    kept = {file: file.stat().st_mtime_ns for file in (run / "latency").iterdir()}
    assert len(kept) > 2
    again = evo(capsys, "resume", run, "--set", "budget.generations=3", "--quiet")
    assert again.code == 0, again.err
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
