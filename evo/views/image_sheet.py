"""Images side by side, for people: a column per network, a row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Columns = Sequence[tuple[str, np.ndarray]]  # title, images (N, H, W, 3) in 0..1


def draw_sheet(sheets: Mapping[str, Columns], file: Path) -> None:
    """One block of rows per direction, a column per network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    each = max(len(images) for columns in sheets.values() for _, images in columns)
    rows, width = each * len(sheets), max(len(columns) for columns in sheets.values())
    figure = Figure(figsize=(1.3 * width, 1.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for block, (direction, columns) in enumerate(sheets.items()):
        for at, (title, images) in enumerate(columns):
            for row, image in enumerate(images):
                axes[block * each + row, at].imshow(image, interpolation="nearest")
            axes[block * each, at].set_title(f"{direction}\n{title}" if at == 0 else title, fontsize=7)
    figure.savefig(file, dpi=120)
