"""The search space of a run as JSON, so that its front can be read where torch is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from evo.registry import CELL_SPACES, resolve
from search_spaces.cells import CellSpace
from search_spaces.genes import Gene
from search_spaces.network import Network
from search_spaces.space import CompressionSpace

SPACE_FILE = "space.json"
SpaceT = TypeVar("SpaceT", CompressionSpace, CellSpace)
KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Gene)}


def space_to_json(space: CompressionSpace) -> str:
    genes = [[type(gene).__name__, asdict(gene)] for gene in space.genes]
    return json.dumps({"digest": space.digest, "network": asdict(space.network), "genes": genes})


def cells_to_json(space: CellSpace, name: str) -> str:
    return json.dumps({"digest": space.digest, "cells": name})


def space_from_json(text: str) -> CompressionSpace | CellSpace:
    """Raises ValueError where the text is not a space, or not the one its digest names."""
    try:
        raw = json.loads(text)
        written = raw["digest"]
        if "cells" in raw:
            cells: CellSpace = resolve(CELL_SPACES, raw["cells"])()
            return _same(cells, written)
        network = TypeAdapter(Network).validate_python(raw["network"])
        genes = tuple(TypeAdapter(KINDS[kind]).validate_python(fields) for kind, fields in raw["genes"])
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ValueError(
            f"{SPACE_FILE} must hold a search space as this version writes it, but got {error.title}.{place}={fault['input']!r}; "
            "open the run with the version that wrote it, or restore the file from a copy"
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{SPACE_FILE} must hold a search space, but got {error!r}; restore it from a copy") from error
    return _same(CompressionSpace(network, genes), written)


def _same(space: SpaceT, written: str) -> SpaceT:
    if space.digest != written:
        raise ValueError(
            f"{SPACE_FILE} must be as it was written, but got another search space (digest {space.digest} instead of {written}); "
            "restore it from a copy, or let evo resume write it again"
        )
    return space
