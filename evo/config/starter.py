"""Write a first configuration: every key with its default, its meaning beside it, and what the user said filled in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evo.config.schema import Config, parse
from evo.registry import MODELS, resolve

HEAD = """\
# Written by `evo init`. Next:
#   evo doctor {file}            # what can be searched, what cannot and why; seconds
#   evo search {file} --run-dir runs/{name}
# Every key below but model and data may be deleted: what stands there is its default.
"""
IMAGES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
HELD_OUT = 0.2  # share of a folder's training images for the search's fitness
MOST_HELD_OUT = 2000
CLASS_ARGUMENTS = ("num_classes", "classes", "n_classes", "num_labels")
LIBRARIES = ("torchvision.", "timm.")  # whose factories pass num_classes on
KNOWN_VALIDATION = {"digits": 400}
LEFT_OUT = {"pretrain", "inner", "split_seed", "train_limit", "test_limit"}  # shown only where they are set
COMMENT_AT = 44


def first_config(
    name: str, model: Mapping[str, Any], data: Mapping[str, Any], objectives: Sequence[str], file: str
) -> str:
    """The text of a configuration that `evo search` accepts; raises ValueError in one sentence where a value cannot be right."""
    values = {
        "name": name,
        "model": dict(model),
        "data": dict(data),
        "objectives": [{"measure": measure} for measure in objectives],
        "evaluation": {"final": {"picks": ["knee"]}},
    }
    config = parse(yaml.safe_dump(values), origin="evo init")
    text = HEAD.format(file=file, name=name) + "\n".join(_lines(config, "")) + "\n"
    parse(text, origin=file)
    return text


def folder_data(root: str, size: int) -> dict[str, Any]:
    """The data section for ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, with a fifth of the training images held out."""
    train = Path(root).expanduser() / "train"
    count = sum(path.suffix.lower() in IMAGES for path in train.rglob("*")) if train.is_dir() else 0
    if count < 2:
        raise ValueError(
            f"--root must hold train/CLASS/*.jpg and val/CLASS/*.jpg, but got {count} images under {str(train)!r}; "
            "name the folder above train and val"
        )
    held_out = max(1, min(MOST_HELD_OUT, round(HELD_OUT * count)))
    return {"factory": "image_folder", "kwargs": {"root": root, "size": size}, "validation": held_out}


def class_argument(factory: str, root: str) -> dict[str, int]:
    """The network's argument for the number of classes with that of an image folder; empty where it has none of a usual name."""
    try:
        arguments = inspect.signature(resolve(MODELS, factory)).parameters
    except ValueError:  # the doctor says what is wrong with it
        return {}
    open_ended = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
    usual = CLASS_ARGUMENTS[:1] if open_ended and factory.startswith(LIBRARIES) else ()
    named = [name for name in CLASS_ARGUMENTS if name in arguments] or usual
    classes = sum(path.is_dir() for path in (Path(root).expanduser() / "train").iterdir())
    return {name: classes for name in named[:1]}


def named_data(factory: str, root: str | None) -> dict[str, Any]:
    kwargs = {} if root is None else {"root": root}
    return {"factory": factory, "kwargs": kwargs, "validation": KNOWN_VALIDATION.get(factory, MOST_HELD_OUT)}


def parse_kwargs(texts: Sequence[str]) -> dict[str, Any]:
    """ "num_classes=10" as {"num_classes": 10}; values are YAML."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, pairs, strict=True):
        if not equals or not key.isidentifier():
            raise ValueError(f"--kwarg must look like num_classes=10, but got kwarg={text!r}; write NAME=VALUE")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def _lines(section: BaseModel, indent: str) -> list[str]:
    found: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if name in LEFT_OUT and value == field.default:
            continue
        if isinstance(value, BaseModel):
            found += ["", *_meaning(value, indent)] if not indent else _meaning(value, indent)
            found += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            found += _entry(name, field, value, indent)
    return found


def _meaning(section: BaseModel, indent: str) -> list[str]:
    text = (type(section).__doc__ or "").strip() if type(section).__doc__ != BaseModel.__doc__ else ""
    return [f"{indent}# {line.strip()}" for line in text.splitlines() if line.strip()]


def _entry(name: str, field: FieldInfo, value: Any, indent: str) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        items = [_flow(item.model_dump(mode="json", exclude_defaults=True)) for item in value]
        return ["", *_meaning(value[0], indent), f"{indent}{name}:", *(f"{indent}  - {item}" for item in items)]
    line = f"{indent}{name}: {_flow(value)}"
    return [f"{line:{COMMENT_AT}}  # {field.description}" if field.description else line]


def _flow(value: Any) -> str:
    """One line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def config_schema() -> dict[str, Any]:
    """The JSON schema of a configuration, for editors."""
    return Config.model_json_schema()
