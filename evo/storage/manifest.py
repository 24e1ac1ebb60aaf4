"""What a run directory says about itself: what was started (`run.json`), what is committed (`manifest-*.json`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from evo.storage.rows import FORMAT_VERSION


@dataclass(frozen=True)
class RunInfo:
    """What may not change within a run, and what was measured before it: `objectives` as "min top1_error"."""

    space_digest: str
    objectives: tuple[str, ...]
    seed: int
    baseline: Mapping[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> RunInfo:
        raw = json.loads(data)
        if raw["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"a run directory must have a format_version of at most {FORMAT_VERSION}, but got "
                f"format_version={raw['format_version']}; use the newer release that wrote it"
            )
        return cls(**{**raw, "objectives": tuple(raw["objectives"])})

    def require_same(self, other: RunInfo) -> None:
        """Raise ValueError unless `other` describes the search that this directory was started with."""
        for name in ("space_digest", "objectives", "seed"):
            old, new = getattr(self, name), getattr(other, name)
            if old != new:
                raise ValueError(
                    f"a resumed search must keep the {name} it was started with ({old}), but got {name}={new}; "
                    "undo the change, or start a new search in another run directory"
                )


@dataclass(frozen=True)
class StoredFile:
    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, data: bytes) -> StoredFile:
        return cls(name, len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Manifest:
    """The commit of a run's first `rounds` rounds; `seconds` were spent on them over all sessions."""

    rounds: int = 0
    seconds: float = 0.0
    files: tuple[StoredFile, ...] = ()

    @property
    def name(self) -> str:
        return f"manifest-{self.rounds:06d}.json"

    @property
    def state_name(self) -> str:
        return f"state-{self.rounds:06d}.parquet"

    def to_json(self) -> bytes:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises ValueError, TypeError or KeyError where the bytes are not a whole manifest."""
        raw = json.loads(data)
        outside = [f["name"] for f in raw["files"] if f["name"].startswith("/") or ".." in f["name"].split("/")]
        if outside:
            raise ValueError(f"it names {outside[0]}, which is outside the run directory")
        return cls(int(raw["rounds"]), float(raw["seconds"]), tuple(StoredFile(**entry) for entry in raw["files"]))
