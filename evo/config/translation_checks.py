"""What a search of generators cannot be asked for, by the configuration alone."""

from __future__ import annotations

from evo.config.schema import Config, Gan, Tune
from evo.registry import DISCRIMINATORS, resolve

WEIGHTS_ALONE = ("l1", "l2", "fpgm", "random")  # criteria that need no statistics of a classifier's outputs


def check_translation(config: Config, gan: Gan) -> None:
    """Raise ValueError for what has no meaning for generators."""
    resolve(DISCRIMINATORS, gan.discriminator.factory)
    if config.model.weights or config.model.pretrain:
        raise ValueError(
            "model.weights and model.pretrain must be left out with section gan, but got one of them; "
            "gan.baseline names the folder of trained networks, which is filled if it is empty"
        )
    if gan.fill_limits and not gan.fit_limits:
        raise ValueError("gan.fill_limits must come with gan.fit_limits, but got it alone; set gan.fit_limits=true too")
    others = [name for name in config.space.criteria if name not in WEIGHTS_ALONE]
    if config.space.widths and not config.space.channel_codes and others:
        raise ValueError(
            f"space.criteria of generators must be among {', '.join(WEIGHTS_ALONE)}, but got {others[0]!r}, which needs a "
            "classifier; name another one, or set space.channel_codes=true"
        )
    if config.supernet is not None:
        raise ValueError("generators are not searched on shared weights, but got a section supernet; remove it")
    if config.timed is not None:
        raise ValueError("latency is not measured of a pair of generators, but got latency; remove it")
    for step, section in (("step2", config.evaluation.step2), ("final", config.evaluation.final)):
        if section.tune != Tune(epochs=section.tune.epochs):
            raise ValueError(
                f"evaluation.{step}.tune may say only epochs with section gan, but got more; "
                "batch, lr and the weights of the losses stand in gan, for every training alike"
            )
