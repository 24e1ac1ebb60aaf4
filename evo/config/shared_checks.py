"""Refuse a configuration whose space shared weights cannot serve, or whose picks cannot be trained from scratch."""

from __future__ import annotations

from evo.config.schema import Config, Supernet
from evo.registry import SUPERNETS, check_name


def check_shared(config: Config, section: Supernet) -> None:
    check_name(SUPERNETS, section.kind, "supernet.kind")
    space = config.space
    if section.kind != "elastic" and (space.weight_bits or space.activation_bits):
        raise ValueError(
            f"supernet.kind={section.kind} serves float weights, but got space.weight_bits={space.weight_bits} and "
            f"space.activation_bits={space.activation_bits}; set both to [], or kind to elastic"
        )
    unfit = {
        "factors": space.factors,
        "sparsity": space.sparsity,
        "channel_codes": space.channel_codes,
        "compensate": space.compensate,
        "roundings": [name for name in space.roundings if name != "nearest"],
        "criteria": space.criteria[1:],
    }
    for key, value in unfit.items():
        if value:
            raise ValueError(
                "shared weights serve widths by one criterion, bits rounded to the nearest and skipped blocks, but got "
                f"space.{key}={getattr(space, key)!r}; reduce it, or search without a supernet"
            )
    for key, step in (("step2", config.evaluation.step2), ("final", config.evaluation.final)):
        if step.tune.features:
            raise ValueError(
                "features are compared channel by channel, which shared weights have in another order, but got "
                f"evaluation.{key}.tune.features={step.tune.features:g}; use tune.attention, or search without a supernet"
            )


def check_scratch(config: Config) -> None:
    if not config.evaluation.final.from_scratch:
        return
    space = config.space
    unfit = {
        "weight_bits": space.weight_bits,
        "activation_bits": space.activation_bits,
        "factors": space.factors,
        "sparsity": space.sparsity,
        "compensate": space.compensate,
    }
    for key, value in unfit.items():
        if value:
            raise ValueError(
                "what is trained from scratch consists of widths, channel codes and skipped blocks, but got "
                f"space.{key}={value!r} with evaluation.final.from_scratch=true; set one of both to [] or false"
            )
