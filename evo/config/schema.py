"""The configuration of a search: one YAML file, checked before anything expensive happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from evo.config.faults import fault_sentence
from evo.config.steps import Architecture as Architecture
from evo.config.steps import Evaluation, Pretrain
from evo.config.steps import Section as Section
from evo.config.steps import Step as Step
from evo.config.steps import Supernet as Supernet
from evo.config.steps import Tune as Tune
from evo.config.text import flattened, text_of, values_of


class Model(Section):
    """The trained network. `factory` is a name of `evo list models` or "package.module:callable"."""

    factory: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = Field(None, description="safetensors, or a state_dict saved by torch.save")
    pretrain: Pretrain | None = Field(None, description="train it here instead of loading weights")
    output: int | str | None = Field(None, description="which of several outputs are the logits: a key or position")


class Data(Section):
    """The data set. `factory` is a name of `evo list datasets` or "package.module:callable"."""

    factory: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    validation: int = Field(2000, ge=1, description="training images held out for the search's fitness")
    split_seed: int = Field(0, ge=0, description="which images are held out; does not follow the search's seed")
    train_limit: int | None = Field(None, ge=2, description="use at most so many training images")
    test_limit: int | None = Field(None, ge=1, description="use at most so many test images")


class Discriminator(Section):
    """The judge of a domain: a name of `evo list discriminators` or "package.module:callable"."""

    factory: str = "patch_discriminator"
    kwargs: dict[str, Any] = Field(default_factory=dict)


class GanFitness(Section):
    """Weights of the scalar fitness that algorithm coevolution may maximise (docs/ccg.md)."""

    gamma: float = Field(1.0, gt=0, description="of both fidelity terms against the share of parameters left")
    cycle: float = Field(10.0, ge=0, description="of the cycle loss against the discriminator-aware distance")
    removal: float = Field(1.0, ge=0, description="of the share of removed channels, in the form of the published code")


class Gan(Section):
    """Search a pair of image-translation generators. model.factory is one generator, evaluation.*.tune says only its epochs;
    everything else about training stands here, for the baseline and for recovery alike."""

    baseline: str = Field(
        description="folder of generators.safetensors and discriminators.safetensors; trained there if missing"
    )
    epochs: float = Field(100.0, gt=0, description="of the baseline's training, passes over the larger domain")
    discriminator: Discriminator = Field(default_factory=Discriminator)
    batch: int = Field(1, ge=1, description="images of each domain per step")
    lr: float = Field(2e-4, gt=0, description="learning rate of Adam")
    tune_lr: float | None = Field(None, gt=0, description="that of fine-tuning, where it is another")
    beta1: float = Field(0.5, ge=0, lt=1)
    constant: float = Field(0.5, ge=0, le=1, description="share of the steps before the learning rate falls to 0")
    cycle: float = Field(10.0, ge=0, description="weight of the L1 cycle loss in training")
    identity: float = Field(5.0, ge=0, description="weight of the L1 identity loss in training")
    replay: int = Field(50, ge=0, description="generated images of each domain that discriminators are shown again")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of generators that a training gives, 0 for the last ones",
    )
    fitness: GanFitness = Field(default_factory=GanFitness)
    fit_limits: bool = Field(
        False,
        description="every candidate loses random channels until its generator meets params_ and macs_ of constraints",
    )
    fill_limits: bool = Field(
        False, description="with fit_limits: and gains random channels while they allow it, so that none is left unused"
    )
    inception: str | None = Field(
        None, description="file of Inception weights, for FID at steps that test; docs/ccg.md"
    )


class Space(Section):
    """What may be chosen; an empty list switches a decision off."""

    widths: list[float] = Field([0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0], description="shares of channels kept")
    multiple: int = Field(4, ge=1, description="channel counts are multiples of this")
    channel_codes: bool = Field(False, description="one bit per channel instead of widths by criteria")
    shared_codes: list[str] = Field(
        default_factory=list,
        description="with channel_codes: channel groups made by layers of one pattern share their bits",
    )
    criteria: list[str] = Field(["fisher"], description="saliency criteria: evo list criteria")
    weight_bits: list[int] = Field([2, 3, 4, 5, 6, 8, 32], description="1..8, and 32 for float")
    activation_bits: list[int] = Field([8, 32], description="2..8, and 32 for float")
    codebooks: list[str] = Field(["symmetric"], description="of quantised weights: evo list codebooks")
    groups: list[int | Literal["channel", "tensor"]] = Field(
        ["channel"], description="what shares one weight step: a channel, the tensor, or so many weights of a channel"
    )
    roundings: list[str] = Field(["nearest"], description="of weights: evo list roundings")
    ranges: list[str] = Field(["percentile"], description="limits of quantised activations: evo list ranges")
    factors: list[str] = Field(["svd", "tucker2"], description="decompositions: evo list factorisations")
    factor_shares: list[float] = Field(
        [0.3, 0.5, 0.7], description="weights of the factors relative to the dense layer"
    )
    rank_rules: list[str] = Field(
        default_factory=list, description="further ranks, chosen from the weights: vbmf, energy:SHARE"
    )
    factor_metric: Literal["weights", "inputs"] = Field(
        "weights", description="what a decomposition keeps close: weights, or outputs on typical inputs"
    )
    sparsity: list[str | float] = Field(
        default_factory=list,
        description='masks of weights: "2:4" or the share kept, such as 0.5; saves bytes and bit operations, no MACs',
    )
    mask_criterion: str = Field("magnitude", description="weights that masks keep: evo list mask_criteria")
    compensate: bool = Field(
        False, description="layers make up for input channels and masked weights, by least squares on typical inputs"
    )
    skip_blocks: bool = Field(True, description="residual blocks may be left out")
    keep: list[str] = Field(default_factory=list, description="name patterns of layers that stay untouched")


class Cells(Section):
    """Search the cells of a network from scratch, on shared weights; `model.factory` is then "cells"."""

    space: Literal["darts", "nasbench201"] = "darts"
    channels: int = Field(16, ge=2, description="of the first cells while searching")
    cells: int = Field(
        8, ge=1, description="cells in all (darts) or of each of three stages (nasbench201), while searching"
    )
    final_channels: int = Field(36, ge=2, description="of the networks that the last step trains from scratch")
    final_cells: int = Field(20, ge=1)


class ObjectiveConfig(Section):
    """A measure of `evo list measures` to minimise, or to maximise with direction max."""

    measure: str
    direction: Literal["min", "max"] = "min"
    reference: float | None = Field(
        None, description="bound of the hypervolume; default: the baseline (+ 0.2 for errors)"
    )


class ConstraintConfig(Section):
    """measure <= upper; "0.5x" is relative to the uncompressed network."""

    measure: str
    upper: float | str


class AlgorithmConfig(Section):
    """A name of `evo list algorithms` or `wrappers` with its parameters; a wrapper has an `inner` algorithm."""

    name: str = "two_step"
    params: dict[str, Any] = Field(default_factory=dict)
    inner: AlgorithmConfig | None = None


class LatencySection(Section):
    """Where latency_ms is measured, beside the uncompressed network; measured too where no objective names it."""

    runtime: str = Field("onnxruntime_int8", description="evo list runtimes")
    threads: int = Field(1, ge=1, description="CPU threads of the runtime")
    batch: int = Field(1, ge=1, description="samples per run")
    repeats: int = Field(
        20, ge=5, description="paired runs, of which the median counts; more where the machine is noisy"
    )


class Resources(Section):
    """What a worker of one fidelity step holds; what is not said is as for all others. Above one only whole numbers."""

    workers: int | None = Field(None, ge=1, description="how many of them")
    cpus: float | None = Field(None, gt=0, description="CPU slots, such as 0.5; default: execution.threads")
    gpus: float | None = Field(None, ge=0, description="GPUs, such as 0.25")
    custom: dict[str, float] = Field(
        default_factory=dict, description="units of resources that nodes of the cluster offer"
    )


class Execution(Section):
    backend: Literal["ray", "local"] = "ray"
    workers: int = Field(2, ge=1, description="Ray actors")
    threads: int = Field(1, ge=1, description="CPU threads of each; results depend on it, not on the number of workers")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus: float = Field(0.0, ge=0, description="GPUs (or a share of one) of each Ray actor")
    resources: dict[Literal["step2", "final"], Resources] = Field(
        default_factory=dict, description="other Ray actors per step, e.g. {final: {workers: 1, gpus: 1}}"
    )
    deadline_s: float | None = Field(None, gt=0, description="seconds after which a step-2 evaluation counts as failed")
    asynchronous: bool = Field(
        False, description="no generations: a free worker gets a new candidate at once (two_step, nsga2, nsga3, random)"
    )


class BudgetConfig(Section):
    """The search stops at the first limit reached; at least one must be set."""

    generations: int | None = Field(20, ge=1)
    evaluations: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)


class Tracking(Section):
    tracker: Literal["mlflow", "none"] = "mlflow"
    uri: str = "sqlite:///mlflow.db"
    experiment: str = "evo"
    marks: dict[str, dict[str, float | str]] = Field(
        default_factory=dict,
        description="points to draw beside the front, e.g. {published: {top1_error: 0.09, macs: 0.5x}}",
    )


class Config(Section):
    """Everything a search needs. See configs/ for examples, and `evo list` for names."""

    name: str = "search"
    seed: int = Field(0, ge=0)
    model: Model
    data: Data
    gan: Gan | None = Field(
        None, description="search the generators of an unpaired translation instead of a classifier"
    )
    cells: Cells | None = Field(None, description="search the cells of a network instead of the compression of one")
    space: Space = Field(default_factory=Space)
    objectives: list[ObjectiveConfig] = Field(
        default_factory=lambda: [ObjectiveConfig(measure=m) for m in ("top1_error", "macs", "size_bytes")], min_length=1
    )
    constraints: list[ConstraintConfig] = Field(default_factory=list)
    repair_limits: bool = Field(
        True,
        description="genomes over a limit of a cost or of predicted latency are moved below it by what step 1 says costs least",
    )
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    supernet: Supernet | None = Field(
        None, description="shared weights; default: every candidate is built from the original"
    )
    latency: LatencySection | None = Field(None, description="measure latency; default where latency_ms is named")
    execution: Execution = Field(default_factory=Execution)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    tracking: Tracking = Field(default_factory=Tracking)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @property
    def timed(self) -> LatencySection | None:
        """The section latency, or its defaults where an objective or a constraint needs one."""
        named = {*(o.measure for o in self.objectives), *(c.measure for c in self.constraints)}
        return self.latency or (LatencySection() if "latency_ms" in named else None)

    def flat(self) -> dict[str, str]:
        """Dotted keys and values as text, for trackers."""
        return {key: str(value) for key, value in flattened(self.model_dump(mode="json"), "")}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply `a.b=value` overrides; ValueError in one sentence for anything wrong."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"CONFIG must name a YAML file, but got {str(file)!r}, which is no file; see configs/ for examples"
        )
    return parse(text_of(file), overrides, str(file))


def parse(text: str, overrides: Sequence[str] = (), origin: str = "the configuration") -> Config:
    return validate(values_of(text, overrides, origin), origin)


def validate(values: Mapping[str, Any], origin: str = "the configuration") -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(fault_sentence(error, Config, origin)) from error
