"""The run directory: an append-only journal of evaluations, and commits that a crash at any moment leaves whole.

config.yaml  run.json                       written once; run.json last
evaluations/pending-RRRRRR-DIGEST.parquet   one per finished evaluation (or batch) of a round under way
evaluations/round-RRRRRR.parquet            the whole round, once it is committed
evaluations/NAME-DIGEST.parquet             what was measured outside the search, such as picks at the final step
state-RRRRRR.parquet                        the algorithm's state after round RRRRRR (counted from 1)
manifest-RRRRRR.json                        size and checksum of every file above: the commit, written last
models/  figures/  ...                      whatever else a run produces
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from evo.candidates import Evaluation
from evo.failures import StorageError
from evo.storage.columns import EMPTY, Archive
from evo.storage.folder import PARTIAL, Folder
from evo.storage.manifest import Manifest, RunInfo, StoredFile
from evo.storage.rows import EVALUATIONS, from_parquet, from_table, to_parquet, to_table

KEPT_STATES = 3
RETRY_PAUSES = (0.2, 1.0, 3.0, 10.0, 30.0, 60.0, 90.0, 120.0)  # about five minutes in all
_MAY_EXIST = re.compile(r"config\.yaml$|\.|.*\.log$")
_ORDERED = re.compile(r"evaluations/pending-(\d+)-\d{9}-(\d{9})-")
_NUMBERED = re.compile(r"(?:evaluations/)?(state|manifest|pending)-(\d+)[-.]")


@dataclass(frozen=True)
class RunDirectory:
    """One search on disk or in an object store. Only one process writes to it at a time, the holder of its lease, which
    `guard` asserts before every write; any number may read."""

    folder: Folder
    uri: str
    guard: Callable[[], None] = field(default=lambda: None, compare=False)

    @classmethod
    def create(cls, uri: str, config: str, info: RunInfo, guard: Callable[[], None] = lambda: None) -> RunDirectory:
        """Start a run in a new or empty folder. Raises ValueError where there is something in it already."""
        cls.require_empty(uri)
        run = cls(Folder.at(uri), uri, guard)
        run.write("config.yaml", config.encode())
        run.write("run.json", info.to_json())
        return run

    @classmethod
    def require_empty(cls, uri: str) -> None:
        """Raise ValueError where the folder holds anything that a new search could harm."""
        present = [name for name in Folder.at(uri).names() if not _MAY_EXIST.match(name)]
        if present:
            raise ValueError(
                f"a new search needs an empty run directory, but got {uri} with {present[0]} in it; "
                f"choose another one, or continue that search with: evo resume {uri}"
            )

    @classmethod
    def open(cls, uri: str, guard: Callable[[], None] = lambda: None) -> RunDirectory:
        """An existing run. Raises ValueError where the folder is none."""
        run = cls(Folder.at(uri), uri, guard)
        if "run.json" not in run.folder.names():
            raise ValueError(f"a run directory must hold a run.json, but got {uri} without; check the path")
        return run

    @property
    def info(self) -> RunInfo:
        try:
            return RunInfo.from_json(self.text("run.json").encode())
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            message = f"run.json must be intact, but got {error!r} in {self.uri}; restore it from a copy"
            raise StorageError(message) from error

    @property
    def config(self) -> str:
        return self.text("config.yaml")

    def text(self, name: str) -> str:
        """A file of text; raises StorageError where it is none."""
        try:
            return self.folder.read(name).decode()
        except UnicodeDecodeError as error:
            message = f"{name} must be text in UTF-8, but got {error.reason} in {self.uri}; restore it from a copy"
            raise StorageError(message) from error

    @property
    def local(self) -> Path | None:
        """The directory as a local path, or None where it is remote."""
        return self.folder.local

    def write(self, name: str, data: bytes) -> StoredFile:
        """Write a file whole; a failing disk is retried a few times. Raises StorageError."""
        for pause in RETRY_PAUSES:
            try:
                return self._put(name, data)
            except OSError as error:
                message = f"writing {name} failed ({error}); trying again in {pause:g} s"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
                time.sleep(pause)
        try:
            return self._put(name, data)
        except OSError as error:
            raise StorageError(
                f"{self.uri} must be writable, but got {error} at {name}; all that finished before is saved: "
                f"mend that and continue with: evo resume {self.uri}"
            ) from error

    def _put(self, name: str, data: bytes) -> StoredFile:
        self.guard()
        self.folder.write(name, data)
        return StoredFile.of(name, data)

    def append(
        self, evaluations: Sequence[Evaluation], round_number: int, moment: tuple[int, int] | None = None
    ) -> None:
        """Journal evaluations that finished together in a round under way. Where their order matters, `moment` says how many
        were told before and how often had been asked by then; `moments` gives it back."""
        if evaluations:
            order = "" if moment is None else f"-{moment[0]:09d}-{moment[1]:09d}"
            self._write_rows(f"pending-{round_number:06d}{order}", evaluations, round_number)

    def record(self, name: str, evaluations: Sequence[Evaluation]) -> None:
        """Keep evaluations that were made outside the search's rounds, such as picks at the final step."""
        if evaluations:
            self._write_rows(name, evaluations, 0)

    def forget(self, name: str) -> int:
        """Delete what was recorded by this name; how many files there were."""
        self.guard()
        recorded = [file for file in self.folder.names("evaluations") if file.startswith(f"evaluations/{name}-")]
        for file in recorded:
            self.folder.delete(file)
        return len(recorded)

    def _write_rows(self, prefix: str, evaluations: Sequence[Evaluation], round_number: int) -> None:
        keys = "\n".join(e.candidate.key for e in evaluations)
        digest = hashlib.blake2b(keys.encode(), digest_size=8).hexdigest()
        self.write(f"evaluations/{prefix}-{digest}.parquet", to_parquet(to_table(evaluations, round_number)))

    def commit(self, last: Manifest, rows: pa.Table, state: pa.Table, seconds: float) -> Manifest:
        """Make the round after `last` permanent, its rows as `to_table` gives them. The manifest is written last; only then is
        anything deleted."""
        number = last.rounds + 1
        done = self.write(f"evaluations/round-{number:06d}.parquet", to_parquet(rows))
        kept = tuple(f for f in last.files if f.name.startswith("evaluations/"))
        manifest = Manifest(number, seconds)
        stored = self.write(manifest.state_name, to_parquet(state))
        manifest = replace(manifest, files=(*kept, done, stored))
        self.write(manifest.name, manifest.to_json())
        self._sweep(number)
        return manifest

    def _sweep(self, number: int) -> None:
        """Delete what the commit of this round has made superfluous. What cannot be deleted does no harm."""
        names = (*self.folder.names(), *self.folder.names("evaluations"))
        for name in (n for n in names if _superfluous(n, number)):
            with contextlib.suppress(OSError):
                self.folder.delete(name)
        if self.local is not None:
            for partial in (*self.local.glob(f"*{PARTIAL}"), *self.local.glob(f"evaluations/*{PARTIAL}")):
                partial.unlink(missing_ok=True)

    def latest(self) -> Manifest:
        """The newest commit whose files are all intact; the empty manifest where nothing is committed yet.

        Warns where it had to fall back to an older one. Raises StorageError where none is intact.
        """
        names = [n for n in self.folder.names() if n.startswith("manifest-") and n.endswith(".json")]
        fault, known = "", dict[str, str]()
        for name in sorted(names, reverse=True):
            manifest, damage = self.verified(name, known)
            if manifest is not None:
                if fault:
                    message = f"{fault} in {self.uri}; falling back to the commit of round {manifest.rounds}"
                    warnings.warn(message, RuntimeWarning, stacklevel=2)
                return manifest
            fault = fault or damage
        if fault:
            raise StorageError(
                f"a committed file must be intact, but got: {fault} in {self.uri}, and no older commit is intact; "
                "restore that file from a copy, or start a new search in another run directory"
            )
        return Manifest()

    def verified(self, name: str, known: dict[str, str]) -> tuple[Manifest | None, str]:
        """A manifest whose files are all intact, or None and what is wrong. `known` remembers the files read before."""
        try:
            manifest = Manifest.from_json(self.folder.read(name))
        except (OSError, ValueError, TypeError, KeyError) as error:
            return None, f"{name} is damaged ({_first_line(error)})"
        for file in manifest.files:
            if file.name not in known:
                known[file.name] = self._damage(file)
            if known[file.name]:
                return None, known[file.name]
        return manifest, ""

    def _damage(self, file: StoredFile) -> str:
        try:
            found = StoredFile.of(file.name, self.folder.read(file.name))
        except FileNotFoundError:
            return f"{file.name} is missing"
        if found.size != file.size:
            return f"{file.name} has {found.size} bytes instead of {file.size}"
        return "" if found == file else f"{file.name} does not match its checksum"

    def state(self, manifest: Manifest) -> pa.Table | None:
        """The algorithm's state at a commit; None at the empty one."""
        return from_parquet(self.folder.read(manifest.state_name)) if manifest.rounds else None

    def committed(self, manifest: Manifest) -> Archive:
        """The evaluations of a commit, by round and within a round in the order of the batch."""
        archive = EMPTY
        for file in manifest.files:
            if file.name.startswith("evaluations/"):
                archive = archive.plus(from_parquet(self.folder.read(file.name)))
        return archive

    def journal(self, manifest: Manifest) -> tuple[Evaluation, ...]:
        """Evaluations that are not part of the commit. Files that are not whole are left out with a warning."""
        known = {f.name for f in manifest.files}
        names = [n for n in self.folder.names("evaluations") if n.endswith(".parquet") and n not in known]
        return _joined([table for table in map(self._whole, names) if table is not None])

    def moments(self, manifest: Manifest) -> tuple[tuple[int, Evaluation], ...]:
        """What was journaled with its moment after a commit, in order: how often had been asked by then, and the evaluation."""
        found = []
        for name in self.folder.names("evaluations"):
            match = _ORDERED.match(name)
            table = self._whole(name) if match and int(match[1]) == manifest.rounds + 1 else None
            if match and table is not None:
                found += [(int(match[2]), e) for e in from_table(table)]
        return tuple(found)

    def evaluations(self) -> Archive:
        """Everything that was ever evaluated in this run, once per key: the commit first, then the journal."""
        manifest = self.latest()
        archive = self.committed(manifest)
        late: dict[str, Evaluation] = {}
        for evaluation in self.journal(manifest):
            late.setdefault(evaluation.candidate.key, evaluation)
        for table in archive.tables():
            for key in pc.filter(table["key"], pc.is_in(table["key"], pa.array(late, pa.string()))).to_pylist():
                late.pop(key, None)
        return archive.plus(to_table(tuple(late.values()))) if late else archive

    def _whole(self, name: str) -> pa.Table | None:
        try:
            table = from_parquet(self.folder.read(name))
        except FileNotFoundError:  # committed and swept since the folder was listed
            return None
        except (pa.ArrowException, OSError) as error:
            fault = _first_line(error)
        else:
            fault = "" if table.schema.equals(EVALUATIONS) else "its columns are not those of evaluations"
        if not fault:
            return table
        warnings.warn(
            f"{name} in {self.uri} is damaged ({fault}) and left out; what it held is evaluated again",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _joined(tables: list[pa.Table]) -> tuple[Evaluation, ...]:
    return from_table(pa.concat_tables(tables)) if tables else ()


def _superfluous(name: str, number: int) -> bool:
    match = _NUMBERED.match(name)
    if match is None:
        return False
    kind, found = match[1], int(match[2])
    return found <= number if kind == "pending" else not number - KEPT_STATES < found <= number


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
