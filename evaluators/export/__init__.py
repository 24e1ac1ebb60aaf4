"""Finished networks as files that run without this project, each compared with the network before it is trusted."""

from evaluators.export.writing import FORMATS, FORMATS_BY_ENDING, export, require_free

__all__ = ["FORMATS", "FORMATS_BY_ENDING", "export", "require_free"]
