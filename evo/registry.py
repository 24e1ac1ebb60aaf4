"""Everything that can be chosen by name: tables of dotted strings, imported only when a name is resolved."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

Table = Mapping[str, str]

ALGORITHMS: Table = {
    "nsga2": "evo.algorithms.nsga:NSGA2",
    "nsga3": "evo.algorithms.nsga:NSGA3",
    "ga": "evo.algorithms.ga:GA",
    "roulette": "evo.algorithms.roulette:RouletteGA",
    "random": "evo.algorithms.random_search:RandomSearch",
    "coevolution": "evo.algorithms.coevolution:Coevolution",
    "cars": "evo.algorithms.cars:Cars",
    "autoslim": "evo.algorithms.autoslim:AutoSlim",
    "tas": "evo.algorithms.tas:TAS",
    "metapruning": "evo.algorithms.metapruning:MetaPruning",
    "optuna_tpe": "evo.algorithms.optuna_sampler:OptunaTPE",
    "optuna_nsga2": "evo.algorithms.optuna_sampler:OptunaNSGA2",
}

# Algorithms around another algorithm.
WRAPPERS: Table = {"two_step": "evo.algorithms.two_step:TwoStep"}

# Algorithms that decide by themselves what is scored and what is measured.
STAGED: Table = {"layerwise": "evo.algorithms.layerwise:Layerwise"}

# Scalar fitness, by which `roulette` draws parents.
FITNESS: Table = {
    "rank": "evo.selection.fitness:Rank",
    "reciprocal": "evo.selection.fitness:Reciprocal",
    "saved_cost": "evo.selection.fitness:SavedCost",
    "saved_genes": "evo.selection.fitness:SavedGenes",
}

CELL_SPACES: Table = {
    "darts": "search_spaces.cells:darts_space",
    "nasbench201": "search_spaces.cells:nasbench201_space",
}

# Sets of weights that all candidates share.
SUPERNETS: Table = {
    "elastic": "evaluators.supernets.elastic:ElasticSupernet",
    "transformable": "evaluators.supernets.transformable:TransformableSupernet",
    "pruning_net": "evaluators.supernets.pruning_net:PruningNet",
}

CROSSOVERS: Table = {
    "uniform": "evo.variation.operators:uniform_crossover",
    "two_point": "evo.variation.operators:two_point_crossover",
}

MUTATIONS: Table = {
    "step": "evo.variation.operators:step_mutation",
    "flip": "evo.variation.operators:flip_mutation",
    "segment": "evo.variation.operators:segment_mutation",
}

SELECTIONS: Table = {
    "nsga2": "evo.selection.survival:nsga2_survival",
    "nsga3": "evo.selection.survival:nsga3_survival",
}

CALIBRATIONS: Table = {"isotonic": "evo.selection.calibration:Isotonic"}

CRITERIA: Table = {
    "l1": "evaluators.saliency:l1",
    "l2": "evaluators.saliency:l2",
    "fpgm": "evaluators.saliency:fpgm",
    "taylor": "evaluators.saliency:taylor",
    "fisher": "evaluators.saliency:fisher",
    "bn_scale": "evaluators.saliency:bn_scale",
    "apoz": "evaluators.saliency:apoz",
    "gram": "evaluators.saliency:gram",
    "random": "evaluators.saliency:random",
}

# Which weights a mask keeps.
MASK_CRITERIA: Table = {
    "magnitude": "evaluators.masks:magnitude",
    "gram": "evaluators.masks:gram",
    "obs": "evaluators.masks:obs",
}

FACTORISATIONS: Table = {
    "svd": "evaluators.factorise:svd",
    "tucker2": "evaluators.factorise:tucker2",
    "spatial": "evaluators.factorise:spatial",
    "cp": "evaluators.cp:cp",
    "tt2": "evaluators.tensor_train:tt2",
    "tt3": "evaluators.tensor_train:tt3",
}

# How weights and activations are rounded; bit-widths of each codebook: search_spaces.codebooks.
CODEBOOKS: Table = {
    "symmetric": "evaluators.codebooks:symmetric",
    "affine": "evaluators.codebooks:affine",
    "ternary": "evaluators.codebooks:ternary",
    "power_of_two": "evaluators.codebooks:power_of_two",
    "kmeans": "evaluators.codebooks:fit_table",
}

ROUNDINGS: Table = {
    "nearest": "evaluators.rounding:nearest",
    "gptq": "evaluators.rounding:gptq",
}

RANGES: Table = {
    "percentile": "evaluators.ranges:percentile",
    "minmax": "evaluators.ranges:minmax",
    "mse": "evaluators.ranges:mse",
}

# Learning rates while tuning.
SCHEDULES: Table = {
    "cosine": "evaluators.schedules:cosine",
    "drops": "evaluators.schedules:drops",
    "linear": "evaluators.schedules:linear",
    "constant": "evaluators.schedules:constant",
}

BACKENDS: Table = {
    "local": "cluster.local:LocalBackend",
    "ray": "cluster.ray_backend:RayBackend",
}

TRACKERS: Table = {
    "mlflow": "evo.tracking.tracker:MlflowTracker",
    "none": "evo.tracking.tracker:NoTracker",
}

RUNTIMES: Table = {
    "onnxruntime_int8": "evaluators.latency.onnx_runtimes:onnxruntime_int8",
    "onnxruntime_fp32": "evaluators.latency.onnx_runtimes:onnxruntime_fp32",
    "openvino": "evaluators.latency.onnx_runtimes:openvino",
    "pytorch": "evaluators.latency.eager:pytorch",
    "cuda": "evaluators.latency.eager:cuda",
}

MODELS: Table = {
    "resnet8": "evaluators.models.cifar_resnet:resnet8",
    "resnet20": "evaluators.models.cifar_resnet:resnet20",
    "resnet32": "evaluators.models.cifar_resnet:resnet32",
    "resnet44": "evaluators.models.cifar_resnet:resnet44",
    "resnet56": "evaluators.models.cifar_resnet:resnet56",
    "mobilenet_v2": "evaluators.models.mobilenet:mobilenet_v2",
    "digits_cnn": "evaluators.models.small:digits_cnn",
}

# Networks of unpaired image translation: what model.factory and gan.discriminator name where section gan is given.
GENERATORS: Table = {"resnet_generator": "evaluators.gan.networks:resnet_generator"}

DISCRIMINATORS: Table = {"patch_discriminator": "evaluators.gan.networks:patch_discriminator"}

DATASETS: Table = {
    "digits": "evaluators.datasets:digits",
    "cifar10": "evaluators.datasets:cifar10",
    "cifar100": "evaluators.datasets:cifar100",
    "mnist": "evaluators.datasets:mnist",
    "fashion_mnist": "evaluators.datasets:fashion_mnist",
    "image_folder": "evaluators.datasets:image_folder",
    "unpaired_folders": "evaluators.gan.datasets:unpaired_folders",
    "unpaired_parquet": "evaluators.gan.datasets:unpaired_parquet",
    "tilted_digits": "evaluators.gan.datasets:tilted_digits",
}

# Not targets but meanings: what an objective, a constraint or a budget may name.
MEASURES: Table = {
    "top1_error": "misclassified share of the search-validation split, 0 to 1",
    "cross_entropy": "mean loss on the search-validation split, nats per sample",
    "test_top1_error": "misclassified share of the test split, only after the final step, 0 to 1",
    "test_cross_entropy": "mean loss on the test split, only after the final step, nats per sample",
    "predicted_loss_increase": "rise of the distillation loss (at high temperature) as step 1 predicts it, nats per sample",
    "discriminator_distance": "how far the discriminators' scores of generated images move, both domains summed, squared scores",
    "cycle_l1": "mean absolute error of images (-1 .. 1) that went there and back, both domains summed, 0 to 4",
    "cycle_l2": "mean squared error of the same, 0 to 8",
    "discriminator_distance_a_to_b": "the same of one generator, squared scores",
    "discriminator_distance_b_to_a": "the same of the other generator, squared scores",
    "cycle_l1_a_to_b": "error of images of domain a that went there and back, 0 to 2",
    "cycle_l1_b_to_a": "error of images of domain b that went there and back, 0 to 2",
    "cycle_l2_a_to_b": "squared error of images of domain a, 0 to 4",
    "cycle_l2_b_to_a": "squared error of images of domain b, 0 to 4",
    "macs_a_to_b": "multiply-accumulates of one generator for one image, count",
    "macs_b_to_a": "multiply-accumulates of the other generator for one image, count",
    "params_a_to_b": "parameters of one generator, count",
    "params_b_to_a": "parameters of the other generator, count",
    "params": "weights, biases and normalisation parameters, count",
    "macs": "multiply-accumulates of convolutions and linear layers for one sample, count",
    "bops": "macs x weight bits x activation bits for one sample, count",
    "size_bytes": "stored weights at their bit-widths, bytes",
    "latency_ms": "time of one batch in the runtime of section latency, measured (at step 1 predicted), milliseconds",
    "predicted_latency_ms": "the same as a table of layer times predicts it, milliseconds",
    "peak_activation_bytes": "largest sum of float32 activations alive at once for one sample, bytes",
}

TABLES: Mapping[str, Table] = {
    "algorithms": ALGORITHMS,
    "wrappers": WRAPPERS,
    "staged": STAGED,
    "fitness": FITNESS,
    "cell_spaces": CELL_SPACES,
    "supernets": SUPERNETS,
    "crossovers": CROSSOVERS,
    "mutations": MUTATIONS,
    "selections": SELECTIONS,
    "calibrations": CALIBRATIONS,
    "criteria": CRITERIA,
    "mask_criteria": MASK_CRITERIA,
    "factorisations": FACTORISATIONS,
    "codebooks": CODEBOOKS,
    "roundings": ROUNDINGS,
    "ranges": RANGES,
    "schedules": SCHEDULES,
    "backends": BACKENDS,
    "trackers": TRACKERS,
    "runtimes": RUNTIMES,
    "models": MODELS,
    "generators": GENERATORS,
    "discriminators": DISCRIMINATORS,
    "datasets": DATASETS,
    "measures": MEASURES,
}


def resolve(table: str | Table, name: str) -> Any:
    """The object behind a name of a table (the table or its key in TABLES) or behind "pkg.module:attribute".

    Raises:
        ValueError: the name is unknown, or its module or attribute cannot be imported.
    """
    entries = TABLES[table] if isinstance(table, str) else table
    kind = next((key for key, value in TABLES.items() if value is entries), "entries")
    if ":" in name:
        return _import(kind, name)
    check_name(entries, name, kind)
    return _import(kind, entries[name])


def check_name(table: Table, name: str, kind: str) -> None:
    """Raise ValueError with the known names and the closest one unless the table has the name."""
    if name in table:
        return
    closest = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
    advice = f"did you mean {closest[0]!r}?" if closest else 'choose one of these or give "package.module:attribute"'
    raise ValueError(f"{kind} must be one of {sorted(table)}, but got name={name!r}; {advice}")


def _import(kind: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"{kind} must be importable, but got name={target!r} ({error})"
        raise ValueError(f"{reason}; install what is missing or correct the name") from error
