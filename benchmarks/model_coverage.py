"""Which networks can be searched, exactly: traced, cut, rounded, factorised, skipped, counted and exported.

    python -m benchmarks.model_coverage [--only NAME ...] [--work DIR] [--limit SECONDS]

Every network runs in a process of its own with a time limit; what is done is kept in --work and not done again. A network
passes when every layer that can be replaced has a choice of bits, five random plans are built with exactly the parameters and
MACs that their costs state, cut equals masked to 1e-5 of the largest output, and the ONNX file of a network with 4-bit weights
gives that network's outputs. Sites that stay dense are listed. Weights are random. Times are CPU seconds of one thread.
Writes benchmarks/results/model_coverage.json and docs/model_coverage.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from benchmarks import record
from benchmarks.coverage_networks import NETWORKS, Spec, build
from evaluators import count
from evaluators.channels import Trace
from evaluators.compose import compose, kept_units
from evaluators.describe import trace
from evaluators.prepare import prepared
from evaluators.probe import masked, share_tensors
from evaluators.quantise import bake
from evaluators.saliency import Ranking, l1, rank
from evaluators.slicing import slice_channels
from search_spaces.costs import costs
from search_spaces.genes import ActivationBitsGene, FactorGene, SkipGene, WeightBitsGene
from search_spaces.network import Network
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan
from search_spaces.space import CompressionSpace

PLANS = 5
EQUAL = 1e-5  # of the largest output
EQUAL_ONNX = 1e-4  # mean difference of the spread of outputs
FACTORED = 1 << 17  # weights of the largest layer that is factorised here: singular values of larger ones take minutes
TABLE = Path(__file__).parent.parent / "docs" / "model_coverage.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--work", type=Path, default=Path("coverage"), help="folder of partial results")
    parser.add_argument("--limit", type=float, default=900, help="seconds per network")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        if not _file(arguments.work, name).is_file():
            print(name, _in_process(name, arguments.work, arguments.limit), flush=True)
    _report([json.loads(file.read_text()) for name in NETWORKS if (file := _file(arguments.work, name)).is_file()])


def _file(work: Path, name: str) -> Path:
    return work / f"{name.replace('/', '-')}.json"


def _in_process(name: str, work: Path, limit: float) -> str:
    """Examine one network in a forked process, which is killed at the limit; a verdict in one line."""
    process = multiprocessing.get_context("fork").Process(target=_examine_into, args=(name, _file(work, name)))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
    if not _file(work, name).is_file():
        reason = f"was killed after {limit:g} s" if process.exitcode == -9 else f"ended with code {process.exitcode}"
        _write(_file(work, name), {"name": name, "passed": False, "failure": reason})
    found = json.loads(_file(work, name).read_text())
    return "passed" if found["passed"] else f"failed: {found['failure']}"


def _write(file: Path, found: dict[str, Any]) -> None:
    file.write_text(json.dumps(found, indent=1))


def _examine_into(name: str, file: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        _write(file, examine(name, NETWORKS[name]))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = (str(error).splitlines() or [""])[0][:200]
        failure = f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
        _write(file, {"name": name, "passed": False, "failure": failure})


def examine(name: str, spec: Spec) -> dict[str, Any]:
    """Everything the table says of one network."""
    given = build(spec)
    example = torch.randn(1, 3, spec.side, spec.side, generator=torch.Generator().manual_seed(0))
    began = time.process_time()
    model = prepared(given, example)
    traced = trace(model, example)
    seconds = time.process_time() - began
    network, ranking = traced.network, rank(traced, model, {}, {"l1": l1})
    space = build_space(network, SpaceOptions(criteria=("l1",), activation_bits=(8, 32)))
    with torch.no_grad():
        drawn = [random_plan(space, seed) for seed in range(PLANS)]
        plans = [_check(model, traced, ranking, plan, example) for plan in drawn]
        onnx = onnx_difference(compose(model, traced, ranking, rounded_weights(space)), example)
    bits = {gene.layer for gene in space.genes if isinstance(gene, WeightBitsGene)}
    replaceable = {layer.name for layer in network.layers if layer.replaceable}
    failures = [
        *(f"plan {i} {what}" for i, plan in enumerate(plans) for what in ("params", "macs", "equal") if not plan[what]),
        *(["some layers have no bits"] if bits != replaceable else []),
        *([f"ONNX differs by {onnx:.1e}"] if not onnx <= EQUAL_ONNX else []),
    ]
    return {
        "name": name,
        "input": [3, spec.side, spec.side],
        "passed": not failures,
        "failure": "; ".join(failures),
        "trace_cpu_s": round(seconds, 2),
        "params": count.parameters(model),
        "layers": len(network.layers),
        "groups": len(network.groups),
        "blocks": len(network.blocks),
        "weights_in_layers": _share_in_layers(network, model),
        "weights_cuttable": _share_cuttable(network),
        "largest_difference": max(plan["difference"] for plan in plans),
        "onnx_difference": onnx,
        "dense": [{"site": d.name, "channels": d.channels, "reason": d.reason} for d in network.dense],
    }


def random_plan(space: CompressionSpace, seed: int) -> CompressionPlan:
    """Random widths, bits on a third of the layers, factors on up to three small layers, some blocks skipped."""
    rng = np.random.default_rng(seed)
    codes = [int(rng.integers(0, gene.cardinality)) for gene in space.genes]
    small = {layer.name for layer in space.network.layers if _weights(space.network, layer.name) <= FACTORED}
    factors = [i for i, g in enumerate(space.genes) if isinstance(g, FactorGene) and g.layer in small]
    chosen = set(rng.permutation(factors)[:3].tolist())
    rounded = {layer.name for layer in space.network.layers if rng.uniform() < 1 / 3}
    for i, gene in enumerate(space.genes):
        if isinstance(gene, FactorGene) and i not in chosen:
            codes[i] = 0
        elif isinstance(gene, SkipGene):
            codes[i] = int(rng.uniform() < 0.25)
        elif isinstance(gene, WeightBitsGene | ActivationBitsGene) and gene.layer not in rounded:
            codes[i] = gene.cardinality - 1
    return space.decode(space.repair(codes))


def rounded_weights(space: CompressionSpace) -> CompressionPlan:
    """Three quarters of every width and 4-bit weights in every layer; activations stay in float, as rounding hides faults."""
    codes = []
    for gene in space.genes:
        if isinstance(gene, WeightBitsGene):
            codes.append(gene.bits.index(4))
        elif isinstance(gene, ActivationBitsGene | SkipGene | FactorGene):
            codes.append(gene.cardinality - 1 if isinstance(gene, ActivationBitsGene) else 0)
        else:
            codes.append(3 * (gene.cardinality - 1) // 4)
    return space.decode(space.repair(codes))


def _weights(network: Network, name: str) -> int:
    layer = network.layer(name)
    return layer.in_channels // layer.groups * layer.out_channels * layer.kernel_area


def _check(model: nn.Module, traced: Trace, ranking: Ranking, plan: CompressionPlan, example: Tensor) -> dict[str, Any]:
    stated = {name: value[0] for name, value in costs(traced.network, of_plan(traced.network, plan)).items()}
    built = compose(model, traced, ranking, plan)
    kept = kept_units(ranking, plan)
    cut = share_tensors(model)
    slice_channels(cut, traced, kept)
    difference = _difference(cut(example), masked(model, traced, kept)(example))
    return {
        "params": stated["params"] == count.parameters(built),
        "macs": stated["macs"] == count.macs(built, example),
        "equal": difference <= EQUAL,
        "difference": difference,
    }


def _difference(got: object, expected: object) -> float:
    """Largest difference of any output tensor relative to its largest element."""
    pairs = zip(_tensors(got), _tensors(expected), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)


def _tensors(output: object) -> list[Tensor]:
    return [t for t in tree_flatten(output)[0] if isinstance(t, Tensor)]


class Flat(nn.Module):
    """The network with its outputs as a tuple."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.inner(x)))


def onnx_difference(module: nn.Module, example: Tensor) -> float:
    """Largest mean difference of the outputs of ONNX Runtime and torch, relative to the spread of each output."""
    import onnxruntime

    flat = Flat(bake(module)).eval()
    expected = flat(example)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.onnx")
        program = torch.onnx.export(flat, (example,), dynamo=True, verbose=False)
        if program is None:
            raise RuntimeError("torch.onnx gave no program")
        program.save(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        got = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    pairs = zip(got, expected, strict=True)
    return max(float((torch.from_numpy(np.asarray(a)) - b).abs().mean() / b.std().clamp_min(1e-9)) for a, b in pairs)


def _share_in_layers(network: Network, model: nn.Module) -> float:
    """Share of the parameters that are weights of layers with a choice of bits."""
    return round(sum(_weights(network, layer.name) for layer in network.layers) / count.parameters(model), 4)


def _share_cuttable(network: Network) -> float:
    """Share of the layers' weights that cutting channel groups makes fewer."""
    all_weights = {layer.name: _weights(network, layer.name) for layer in network.layers}
    cut = [layer.name for layer in network.layers if layer.in_axis.terms or layer.out_axis.terms]
    return round(sum(all_weights[name] for name in cut) / sum(all_weights.values()), 4)


def _report(found: list[dict[str, Any]]) -> None:
    passed = [row for row in found if row["passed"]]
    times = [row["trace_cpu_s"] for row in passed]
    figures = {
        "networks": float(len(found)),
        "passed_share": len(passed) / len(found),
        "slowest_trace_cpu_s": max(times, default=0.0),
        "largest_difference": max((row["largest_difference"] for row in passed), default=0.0),
    }
    print(record.write("model_coverage", figures, list(range(PLANS)), {"rows": found}))
    TABLE.write_text("\n".join(_table(found)) + "\n")


def _table(found: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Networks that can be searched",
        "",
        "Made by `python -m benchmarks.model_coverage`; what a network must do to pass stands there. Weights are random,",
        "times are CPU seconds of one thread. *Cuttable*: share of the layers' weights that widths act on.",
        "",
        "| network | input | passes | trace, s | layers | groups | blocks | cuttable | stays dense |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        if "layers" not in row:
            lines.append(f"| {row['name']} | | no: {row['failure']} | | | | | | |")
            continue
        verdict = "yes" if row["passed"] else f"no: {row['failure']}"
        lines.append(
            f"| {row['name']} | {row['input'][1]} | {verdict} | {row['trace_cpu_s']} | {row['layers']} | {row['groups']} | "
            f"{row['blocks']} | {row['weights_cuttable']:.0%} | {_dense(row)} |"
        )
    return lines


def _dense(row: dict[str, Any]) -> str:
    """Reasons with the number of sites and channels, most channels first; outputs go without saying."""
    sites, channels = Counter[str](), Counter[str]()
    for dense in row["dense"]:
        if dense["reason"] != "is an output of the network":
            reason = dense["reason"].partition(" (")[0]
            sites[reason] += 1
            channels[reason] += dense["channels"]
    return "; ".join(f"{sites[r]} sites, {n} channels: {r}" for r, n in channels.most_common()).replace("|", "/")


if __name__ == "__main__":
    main()
