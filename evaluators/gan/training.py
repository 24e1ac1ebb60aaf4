"""CycleGAN training (Zhu et al. 2017): two generators against two discriminators, on images that nothing pairs.

One code for the baseline, which can be stopped and continued, and for the recovery of a compressed pair; only the length differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from evaluators.artifacts import save_tensors
from evaluators.gan.data import UnpairedSplits
from evaluators.gan.networks import A_TO_B, B_TO_A, Discriminators
from evaluators.gan.replay import Replay
from evo.randomness import derived_seed

RECIPE = "recipe"


@dataclass(frozen=True)
class Recipe:
    """Least-squares adversarial loss, weight 1; `cycle` and `identity` weigh the L1 distances of images in -1..1.

    Adam at `lr` with (`beta1`, 0.999), constant for the share `constant` of the steps and then falling linearly to 0. `replay`
    images of each domain that were made before are kept for the discriminators (Shrivastava et al. 2017). With `average` the
    generators that come out are moving averages of those that were trained (Yazici et al. 2019, "The unusual effectiveness of
    averaging in GAN training"), begun with those of the first step: decay min(average, (1 + n) / (10 + n)) after step n, so
    that short trainings are averaged over their later part as well. Buffers are those of the last step.
    """

    batch: int = 1
    lr: float = 2e-4
    beta1: float = 0.5
    cycle: float = 10.0
    identity: float = 5.0
    constant: float = 0.5
    replay: int = 50
    average: float = 0.0


@dataclass(frozen=True)
class Losses:
    generators: Tensor
    fake_a: Tensor
    fake_b: Tensor


class Training:
    """Networks, optimisers and replayed images after so many steps. What step n does depends on them, n and the seed alone."""

    def __init__(
        self,
        pair: nn.Module,
        judges: Discriminators,
        splits: UnpairedSplits,
        recipe: Recipe,
        steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.pair, self.judges = pair.to(device), judges.to(device)
        self.splits, self.recipe, self.steps, self.seed, self.device = splits, recipe, steps, seed, device
        betas = (recipe.beta1, 0.999)
        self.adams = {
            "generators": torch.optim.Adam(self.pair.parameters(), recipe.lr, betas),
            "discriminators": torch.optim.Adam(self.judges.parameters(), recipe.lr, betas),
        }
        self.replays = {name: Replay(recipe.replay, derived_seed(seed, f"replay {name}")) for name in ("a", "b")}
        self.average = AveragedModel(self.pair, avg_fn=self._averaged) if recipe.average else None
        self.done = 0

    def run(self, until: int, progress: Callable[[float], None] | None = None) -> None:
        """Train up to this step; after the last one the pair is the average, if one is kept. Raises FloatingPointError when a
        loss stops being finite."""
        self.pair.train()
        self.judges.train()
        while self.done < until:
            self._step()
            self.done += 1
            if self.average is not None:
                self.average.update_parameters(self.pair)
            if progress is not None:
                progress(self.done / self.steps)
        if self.average is not None and self.done == self.steps:
            self.pair.load_state_dict(self.average.module.state_dict())
        self.pair.eval()
        self.judges.eval()

    def _step(self) -> None:
        step = self.done
        torch.manual_seed(derived_seed(self.seed, "dropout", step))
        a, b = self.splits.training_batch(self.recipe.batch, self.seed, step, self.device)
        for adam in self.adams.values():
            adam.param_groups[0]["lr"] = self.recipe.lr * decay(step, self.steps, self.recipe.constant)
        self.judges.requires_grad_(False)
        losses = generator_loss(self.pair, self.judges, a, b, self.recipe)
        _update(self.adams["generators"], losses.generators, step, self.recipe)
        self.judges.requires_grad_(True)
        made_a = self.replays["a"].exchanged(losses.fake_a.detach(), step)
        made_b = self.replays["b"].exchanged(losses.fake_b.detach(), step)
        loss = discriminator_loss(self.judges.a, a, made_a) + discriminator_loss(self.judges.b, b, made_b)
        _update(self.adams["discriminators"], loss, step, self.recipe)

    def save(self, file: Path, facts: str) -> None:
        """Everything that the next step needs, in one file; `facts` say what was trained how."""
        save_tensors(file, self._tensors(), {RECIPE: facts})

    def load(self, file: Path, facts: str) -> None:
        """Continue where `save` was called; raises ValueError where the file was written by another training."""
        with safe_open(file, "pt") as opened:
            written = (opened.metadata() or {}).get(RECIPE, "")
        if written != facts:
            raise ValueError(
                f"{file} must have been written by this very training, but got {written or 'another file'} where {facts} is "
                "asked for; give gan.baseline another folder, or remove that file to train anew"
            )
        tensors = load_file(file, str(self.device))
        for name, network in self._networks().items():
            network.load_state_dict(_below(tensors, f"{name}."))
        for name, adam in self.adams.items():
            _fill(adam, _below(tensors, f"adam.{name}."))
        for name, replay in self.replays.items():
            replay.images = list(_below(tensors, "replay.").get(name, torch.empty(0)))
        self.done = int(tensors["done"])

    def _networks(self) -> dict[str, nn.Module]:
        return {"pair": self.pair, "judges": self.judges, **({"average": self.average} if self.average else {})}

    def _averaged(self, mean: Tensor, now: Tensor, updates: Tensor | int) -> Tensor:
        step = int(updates) + 1
        return torch.lerp(mean, now, 1.0 - min(self.recipe.average, (1 + step) / (10 + step)))

    def _tensors(self) -> dict[str, Tensor]:
        networks = self._networks().items()
        found = {f"{name}.{key}": value for name, network in networks for key, value in network.state_dict().items()}
        for name, adam in self.adams.items():
            found.update({f"adam.{name}.{key}": value for key, value in _moments(adam)})
        for name, replay in self.replays.items():
            if replay.images:
                found[f"replay.{name}"] = torch.stack(replay.images)
        return {**found, "done": torch.tensor(self.done)}


def decay(step: int, steps: int, constant: float) -> float:
    """Factor of the learning rate: 1 for the share `constant` of the steps, then linearly to 0 one step after the last."""
    flat = constant * steps
    return 1.0 if step < flat else (steps - step) / max(1.0, steps - flat)


def generator_loss(pair: nn.Module, judges: Discriminators, a: Tensor, b: Tensor, recipe: Recipe) -> Losses:
    """Both generators shall be taken for real, give back what went round, and leave alone what is already of their domain."""
    a_to_b, b_to_a = pair.get_submodule(A_TO_B), pair.get_submodule(B_TO_A)
    fake_b, fake_a = a_to_b(a), b_to_a(b)
    adversarial = taken_for(judges.b(fake_b), 1.0) + taken_for(judges.a(fake_a), 1.0)
    cycle = F.l1_loss(b_to_a(fake_b), a) + F.l1_loss(a_to_b(fake_a), b)
    total = adversarial + recipe.cycle * cycle
    if recipe.identity > 0:
        total = total + recipe.identity * (F.l1_loss(b_to_a(a), a) + F.l1_loss(a_to_b(b), b))
    return Losses(total, fake_a, fake_b)


def discriminator_loss(judge: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Half of the least-squares loss of telling both."""
    return 0.5 * (taken_for(judge(real), 1.0) + taken_for(judge(made), 0.0))


def taken_for(patches: Tensor, wanted: float) -> Tensor:
    return (patches - wanted).square().mean()


def _update(adam: torch.optim.Adam, loss: Tensor, step: int, recipe: Recipe) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the translation loss must stay finite, but got {loss.item()} at step {step}; lower gan.lr={recipe.lr}"
        )
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


def _moments(adam: torch.optim.Adam) -> Iterator[tuple[str, Tensor]]:
    for at, state in adam.state_dict()["state"].items():
        for name, value in state.items():
            yield f"{at}.{name}", value


def _fill(adam: torch.optim.Adam, tensors: Mapping[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        at, _, name = key.partition(".")
        states.setdefault(int(at), {})[name] = value
    adam.load_state_dict({"state": states, "param_groups": adam.state_dict()["param_groups"]})


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
