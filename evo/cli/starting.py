"""Commands for the first hour: a first configuration, and the reference of what may stand in one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from evo.cli.completion import datasets, measures, models
from evo.cli.options import say

MODEL = typer.Option(help="a name of evo list models, or package.module:callable", autocompletion=models)
DATA = typer.Option(help="a name of evo list datasets, or package.module:callable", autocompletion=datasets)
DEFAULT_OBJECTIVES = ("top1_error", "macs", "size_bytes")


def init(
    out: Annotated[Path, typer.Argument(metavar="[FILE]", help="new YAML file")] = Path("search.yaml"),
    model: Annotated[str | None, MODEL] = None,
    kwarg: Annotated[list[str] | None, typer.Option(help="argument of the model, NAME=VALUE (repeatable)")] = None,
    weights: Annotated[str | None, typer.Option(help="safetensors, or a state_dict saved by torch.save")] = None,
    train: Annotated[float | None, typer.Option(help="train it here for so many epochs instead", min=0.0)] = None,
    data: Annotated[str | None, DATA] = None,
    root: Annotated[str | None, typer.Option(help="folder of the data")] = None,
    size: Annotated[int, typer.Option(help="side of the images of an image folder, in pixels", min=1)] = 224,
    objective: Annotated[
        list[str] | None, typer.Option(help="measure to minimise (repeatable)", autocompletion=measures)
    ] = None,
    force: Annotated[bool, typer.Option(help="overwrite FILE")] = False,
) -> None:
    """Write a commented configuration for your model and data; what is not said as an option is asked.

    Example: evo init search.yaml --model torchvision.models:resnet18 --weights net.pt --data image_folder --root photos
    """
    if out.exists() and not force:
        raise ValueError(
            f"evo init must not overwrite a file, but got {str(out)!r}, which exists; name another or add --force"
        )
    from evo.config.starter import class_argument, first_config, folder_data, named_data, parse_kwargs
    from evo.registry import DATASETS, MODELS, check_name

    factory = model or _ask("--model", "Model: a name of `evo list models` or package.module:callable")
    if ":" not in factory:
        check_name(MODELS, factory, "models")
    if weights is None and train is None:
        weights = _ask("--weights or --train", "Trained weights (a file; or a number of epochs to train it here)")
    if train is None and weights is not None and _is_number(weights):
        train, weights = float(weights), None
    source = data or _ask("--data", "Data: a name of `evo list datasets` or package.module:callable")
    if ":" not in source:
        check_name(DATASETS, source, "datasets")
    if root is None and source not in ("digits",) and ":" not in source:
        root = _ask("--root", "Folder of the data")
    found = folder_data(root or ".", size) if source == "image_folder" else named_data(source, root)
    counted = class_argument(factory, root or ".") if source == "image_folder" else {}
    section = {"factory": factory, "kwargs": {**counted, **parse_kwargs(kwarg or [])}, "weights": weights}
    if train:
        section["pretrain"] = {"epochs": train}
    text = first_config(out.stem, section, found, objective or DEFAULT_OBJECTIVES, str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    say(f"wrote {out}; look what can be searched: evo doctor {out}")


def reference(
    schema: Annotated[bool, typer.Option("--schema", help="the JSON schema of a configuration, for editors")] = False,
) -> None:
    """Print the reference of configurations and names as Markdown, made from the schema and the registries themselves.

    Example: evo reference --schema > evo.schema.json
    """
    from evo.config.reference import reference as made
    from evo.config.starter import config_schema

    print(json.dumps(config_schema(), indent=2) if schema else made())


def _ask(option: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise ValueError(f"evo init must be told everything where it cannot ask, but got no {option}; add it")
    return str(typer.prompt(question, err=True))


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
