"""The one number by which people know a finished network: its measure on the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Wording = tuple[str, Callable[[float], str]]

HEADLINES: Mapping[str, Wording] = {
    "test_top1_error": ("test top-1", lambda error: f"{1 - error:.2%}"),
    "test_ssim": ("test SSIM", lambda value: f"{value:.3f}"),
    "test_cycle_l1": ("test cycle L1", lambda value: f"{value:.3f}"),
}


def headline(measures: Mapping[str, float]) -> tuple[str, str]:
    """What it is called and its value in words, of the first measure of the table that is there."""
    for name, (title, words) in HEADLINES.items():
        if name in measures:
            return title, words(measures[name])
    return "test", "-"
