"""The sections of a configuration about fidelity steps: what is measured at each, and how networks recover."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tune(Section):
    """How a compressed network recovers: distillation from the original, `epochs` may be a fraction."""

    epochs: float = Field(0.0, ge=0, description="passes over the training split")
    batch: int = Field(64, ge=1, description="images per step")
    lr: float = Field(0.01, gt=0, description="peak learning rate of SGD with a cosine schedule")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    alpha: float = Field(0.9, ge=0, le=1, description="share of distillation in the loss, 0 for labels alone")
    temperature: float = Field(4.0, gt=0, description="softening of the teacher's and student's logits")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with a rising learning rate")
    schedule: str = Field("cosine", description="of the learning rate: evo list schedules")
    features: float = Field(
        0.0, ge=0, description="weight of the distance between features of kept channels, per block"
    )
    attention: float = Field(0.0, ge=0, description="weight of the distance between attention maps, per block")
    ways: int = Field(
        0, ge=0, description="0, or in how many ways an image is augmented: the teacher answers each once"
    )
    bfloat16: float = Field(
        0.0, ge=0, le=1, description="share of the steps, the first ones, in mixed precision: for AMX and GPUs"
    )


class Pretrain(Tune):
    """Train the network first (for demonstrations): on labels, since there is no teacher yet."""

    epochs: float = Field(10.0, gt=0)
    lr: float = Field(0.1, gt=0)


class Step1(Section):
    """Statistics behind the closed-form score."""

    images: int = Field(256, ge=8, description="training images for one forward and backward pass")
    codes: Literal["fisher", "reconstruction"] = Field(
        "fisher",
        description="form of binary channel codes: the loss, or the outputs of the layer that reads the channels",
    )


class Step(Section):
    """A step that builds the real network. Numbers of images; 0 means the whole split."""

    recalibration: int = Field(512, ge=0, description="training images for batch-norm statistics and ranges")
    validation: int = Field(1024, ge=0, description="search-validation images")
    tune: Tune = Field(default_factory=Tune)


class Final(Step):
    """The last step, for chosen points: a full fine-tune, and the test split, once."""

    picks: list[str] = Field(
        default_factory=list,
        description='"knee", an id, limits as in "macs<=0.5x,size_bytes<=0.2x", or several: "uniform:4", "pareto:4"',
    )
    recalibration: int = Field(2048, ge=0)
    validation: int = Field(0, ge=0)
    tune: Tune = Field(default_factory=lambda: Tune(epochs=5))
    from_scratch: bool = Field(
        False, description="draw the weights of the picks anew before they are tuned: only their structure was searched"
    )


class Architecture(Section):
    """What weights of kind transformable learn beside themselves: how probable every width and depth is (TAS)."""

    target: float = Field(0.5, gt=0, le=1, description="multiplications wanted, as a share of the whole network's")
    tolerance: float = Field(0.05, ge=0, lt=1, description="width of the band that costs nothing")
    around: bool = Field(
        False,
        description="the band is target x (1 +- tolerance); else it ends at the target, tolerance in the whole's unit",
    )
    cost_weight: float = Field(
        2.0, ge=0, description="of the logarithm of the expected multiplications, outside the band"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(1e-3, ge=0)
    beta: float = Field(0.5, ge=0, lt=1, description="first beta of Adam")
    warm: float = Field(5.0, gt=0, description="temperature of the Gumbel-softmax at the start, falling as a cosine")
    cold: float = Field(0.1, gt=0, description="and at the end of the horizon")


class Supernet(Section):
    """One set of weights for all candidates: their fitness is what they get from it, after batch-norm recalibration. Epochs are
    passes over the training split, fractions allowed. Only widths, bits and skipped blocks can share weights."""

    kind: str = Field("elastic", description="evo list supernets; pruning_net generates the weights of every width")
    hidden: int = Field(32, ge=1, description="pruning_net: units between the two layers that generate a weight")
    warm_up: float = Field(5.0, ge=0, description="epochs on random subnets, before the first evaluation")
    epochs: float = Field(
        1.0, ge=0, description="epochs on subnets of the population, every generation (algorithm cars)"
    )
    horizon: float = Field(20.0, gt=0, description="epochs over which the learning rate falls to lr_min")
    batch: int = Field(64, ge=1, description="images per step")
    lr: float = Field(0.05, gt=0, description="learning rate of SGD at the start, falling as a cosine")
    lr_min: float = Field(0.001, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    subnets: int = Field(4, ge=1, description="subnets per step, the two of the sandwich rule included")
    sandwich: bool = Field(True, description="every step trains the largest and the narrowest subnet too")
    in_place_distillation: bool = Field(
        True, description="the first subnet of a step learns labels, the others its answers"
    )
    sampling: Literal["levels", "evenly"] = Field(
        "levels", description="random subnets: around a level of compression each, or every gene by itself"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="pruning_net: of the labels")
    layer_drop: float = Field(
        0.0, ge=0, lt=1, description="probability that a residual block is left out of a drawn subnet"
    )
    from_teacher: bool = Field(
        False,
        description="the first subnet of a step learns the answers of the uncompressed network in place of labels",
    )
    architecture: Architecture = Field(default_factory=Architecture)
    private_norms: bool = Field(False, description="batch-norm scales and shifts of its own for every width of a layer")
    overlap: bool = Field(
        False, description="train the next version while candidates are measured with the one before (algorithm cars)"
    )
    threads: int | None = Field(
        None, ge=1, description="of the trainer while nobody measures beside it; default: execution.threads"
    )


class Evaluation(Section):
    step1: Step1 = Field(default_factory=Step1)
    rungs: list[Step] = Field(
        default_factory=list,
        description="cheaper steps before step2, cheapest first: two_step takes only the most promising on to the next",
    )
    step2: Step = Field(default_factory=Step)
    final: Final = Field(default_factory=Final)
