"""The trained pair and its discriminators, from a folder; trained into it where they are missing, however often that stops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from evaluators.artifacts import save_tensors
from evaluators.gan.data import UnpairedSplits
from evaluators.gan.networks import Discriminators, GeneratorPair
from evaluators.gan.training import Recipe, Training
from evaluators.load import load_weights

GENERATORS_FILE, DISCRIMINATORS_FILE, UNFINISHED = (
    "generators.safetensors",
    "discriminators.safetensors",
    "training.safetensors",
)
SAVE_EVERY_S = 30.0
AT_ONCE = 10  # steps between two looks at the clock

Makers = tuple[Callable[[], nn.Module], Callable[[], nn.Module]]


def new_networks(makers: Makers, seed: int) -> tuple[GeneratorPair, Discriminators]:
    """Untrained networks from the factories of a generator and of a discriminator; weights depend on the seed alone."""
    torch.manual_seed(seed)
    generator, discriminator = makers
    return GeneratorPair(generator(), generator()), Discriminators(discriminator(), discriminator())


def has_baseline(folder: Path) -> bool:
    return (folder / GENERATORS_FILE).is_file() and (folder / DISCRIMINATORS_FILE).is_file()


def load_baseline(folder: Path, pair: nn.Module, judges: nn.Module) -> None:
    """Fill both from the folder; raises ValueError where the files do not fit."""
    load_weights(pair, str(folder / GENERATORS_FILE), "gan.baseline")
    load_weights(judges, str(folder / DISCRIMINATORS_FILE), "gan.baseline")


def resume(training: Training, unfinished: Path, facts: str) -> None:
    """Go on from the file if there is one; ValueError where another training wrote it."""
    if unfinished.is_file():
        training.load(unfinished, facts)


def run_kept(
    training: Training,
    unfinished: Path,
    facts: str,
    save_every: float,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Train to the end, kept in the file every so many seconds, which the caller removes once the result is kept."""
    saved = time.monotonic()
    while training.done < training.steps:
        training.run(min(training.steps, training.done + AT_ONCE), progress)
        if time.monotonic() - saved >= save_every:
            training.save(unfinished, facts)
            saved = time.monotonic()


def train_baseline(
    folder: Path,
    pair: GeneratorPair,
    judges: Discriminators,
    splits: UnpairedSplits,
    recipe: Recipe,
    epochs: float,
    seed: int,
    device: torch.device,
    note: Callable[[str], None],
    save_every: float = SAVE_EVERY_S,
) -> None:
    """Train both in place and keep them in the folder. A training that was stopped is continued, and ends with equal weights."""
    steps = max(1, round(epochs * splits.steps_per_epoch(recipe.batch)))
    training = Training(pair, judges, splits, recipe, steps, seed, device)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (pair, judges)]
    images = [len(splits.a.train), len(splits.b.train)]
    trained = {**asdict(recipe), "steps": steps, "seed": seed, "parameters": sizes, "images": images}
    facts = json.dumps(trained, sort_keys=True)
    resume(training, folder / UNFINISHED, facts)
    note(f"training the generators from step {training.done} to {steps} ({epochs:g} epochs) into {folder}")
    run_kept(training, folder / UNFINISHED, facts, save_every)
    save_tensors(folder / DISCRIMINATORS_FILE, judges.state_dict())
    save_tensors(folder / GENERATORS_FILE, pair.state_dict())  # last: it says that the training is finished
    (folder / UNFINISHED).unlink(missing_ok=True)
