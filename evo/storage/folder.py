"""Atomic files in one folder of any pyarrow file system: a local path, s3://bucket/run, gs://bucket/run ..."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from evo.addresses import secrets_of

PARTIAL = ".partial"


def require_no_credentials(uri: str) -> None:
    """Raise ValueError, without repeating them, where an address holds any: it is kept, shown and handed to jobs."""
    if "@" in urlsplit(uri).netloc or secrets_of(uri):
        raise ValueError(
            f"a run directory's address must not hold credentials, but got some in {uri.partition('://')[0]}://...; "
            "give them by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for instance)"
        )


@dataclass(frozen=True)
class Folder:
    """`write` is all or nothing on a local disk; elsewhere that is left to the store, and to readers who verify."""

    filesystem: fs.FileSystem
    root: str

    @classmethod
    def at(cls, uri: str) -> Folder:
        if "://" not in uri:
            return cls(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri)))
        require_no_credentials(uri)
        try:
            return cls(*fs.FileSystem.from_uri(uri))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"a run directory must be a local path or a URI such as s3://bucket/run, but got {uri!r} ({reason}); "
                "correct the address"
            ) from error

    @property
    def local(self) -> Path | None:
        """The folder as a local path, or None where it is remote."""
        return Path(self.root) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def write(self, name: str, data: bytes) -> None:
        if self.local is None:
            self.filesystem.create_dir(self._at(os.path.dirname(name)), recursive=True)
            with self.filesystem.open_output_stream(self._at(name)) as stream:
                stream.write(data)
        else:
            _replace(self.local / name, data)

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self._at(name)) as stream:
            return bytes(stream.read())

    def names(self, subfolder: str = "") -> list[str]:
        """Sorted names of the files in the folder (or in a subfolder of it), without those still being written."""
        found = self.filesystem.get_file_info(fs.FileSelector(self._at(subfolder), allow_not_found=True))
        prefix = f"{subfolder}/" if subfolder else ""
        return sorted(f"{prefix}{i.base_name}" for i in found if i.is_file and not i.base_name.endswith(PARTIAL))

    def delete(self, name: str) -> None:
        self.filesystem.delete_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
