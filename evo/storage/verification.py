"""Is a run directory whole? Every file that a search wrote is read and compared with what was promised about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from evo.config.schema import parse
from evo.config.space_file import SPACE_FILE, space_from_json
from evo.storage.manifest import Manifest, RunInfo
from evo.storage.rows import EVALUATIONS, from_parquet
from evo.storage.run_directory import RunDirectory

MODELS = "models"
CONTENT_SHA256 = "content_sha256"  # in a safetensors file's metadata: of all tensors' bytes, ordered by name


@dataclass(frozen=True)
class Report:
    """`checked` counts files by kind; every fault is one sentence that says what helps."""

    run_dir: str
    checked: dict[str, int]
    faults: tuple[str, ...]


def verify(uri: str) -> Report:
    """Check a run directory. Raises ValueError where there is none."""
    run = RunDirectory.open(uri)
    checks: dict[str, Callable[[RunDirectory], Iterator[str]]] = {
        "records": _records,
        "manifests": _manifests,
        "journal": _journal,
        "models": _models,
    }
    found = {kind: list(check(run)) for kind, check in checks.items()}
    counts = {kind: len(answers) for kind, answers in found.items()}
    return Report(uri, counts, tuple(fault for answers in found.values() for fault in answers if fault))


def _records(run: RunDirectory) -> Iterator[str]:
    """run.json, config.yaml and space.json, alone and together."""
    digest = ""
    for name, load in (("run.json", _info_digest), ("config.yaml", _config), (SPACE_FILE, _space_digest)):
        try:
            found = load(run.folder.read(name))
        except (OSError, ValueError, TypeError, KeyError) as error:
            yield _fault(f"{name} must be intact", _first_line(error), "restore it from a copy")
            continue
        if digest and found and found != digest:
            yield _fault(f"{name} must describe the space in run.json", f"digest={found}", "restore it from a copy")
        else:
            yield ""
        digest = digest or found


def _info_digest(data: bytes) -> str:
    return RunInfo.from_json(data).space_digest


def _config(data: bytes) -> str:
    parse(data.decode(), origin="config.yaml")
    return ""


def _space_digest(data: bytes) -> str:
    return space_from_json(data.decode()).digest


def _manifests(run: RunDirectory) -> Iterator[str]:
    names = [n for n in run.folder.names() if n.startswith("manifest-") and n.endswith(".json")]
    damage: dict[str, str] = {}  # by file, since every commit names the files of those before it
    for number, name in enumerate(sorted(names, reverse=True)):
        advice = "evo resume continues from the commit before" if number + 1 < len(names) else "restore it from a copy"
        manifest, fault = run.verified(name, damage)
        if manifest is None:
            yield _fault(f"every file of {name} must be intact", fault, advice)
        else:
            fault = _inconsistency(run, manifest)
            yield fault and _fault(f"{name} must be consistent", fault, advice)


def _inconsistency(run: RunDirectory, manifest: Manifest) -> str:
    rounds = [f.name for f in manifest.files if f.name.startswith("evaluations/")]
    if rounds != [f"evaluations/round-{n:06d}.parquet" for n in range(1, manifest.rounds + 1)]:
        return f"{len(rounds)} files for {manifest.rounds} rounds"
    keys = [e.candidate.key for e in run.committed(manifest)]
    return "" if len(set(keys)) == len(keys) else f"{len(keys) - len(set(keys))} evaluations counted twice"


def _journal(run: RunDirectory) -> Iterator[str]:
    """Files of rows that no commit vouches for: they must at least be whole."""
    for name in run.folder.names("evaluations"):
        fault = "" if name.endswith(".parquet") else "another ending"
        try:
            table = from_parquet(run.folder.read(name))
            fault = fault or ("" if table.schema.equals(EVALUATIONS) else "other columns")
        except (pa.ArrowException, OSError) as error:
            fault = _first_line(error)
        yield fault and _fault(f"{name} must hold whole evaluations", fault, "a resume evaluates again what is lost")


def _models(run: RunDirectory) -> Iterator[str]:
    for name in run.folder.names(MODELS):
        fault = safetensors_fault(run.folder.read(name)) if name.endswith(".safetensors") else "another ending"
        yield fault and _fault(f"{name} must be a whole safetensors file", fault, "delete it: it is made again")


def safetensors_fault(data: bytes) -> str:
    """Why the bytes are no whole safetensors file, or an empty string; with a checksum inside, also of its tensors."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        metadata = header.pop("__metadata__", {})
        spans = {name: tuple(entry["data_offsets"]) for name, entry in header.items()}
        wanted = 8 + size + max((end for _, end in spans.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"a damaged header ({_first_line(error)})"
    if len(data) != wanted:
        return f"{len(data)} bytes instead of {wanted}"
    content = hashlib.sha256()
    for name in sorted(spans):
        content.update(data[8 + size + spans[name][0] : 8 + size + spans[name][1]])
    return (
        ""
        if metadata.get(CONTENT_SHA256) in (None, content.hexdigest())
        else "tensors that do not match their checksum"
    )


def _fault(demand: str, got: str, advice: str) -> str:
    return f"{demand}, but got {got}; {advice}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
