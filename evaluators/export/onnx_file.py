"""ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from evaluators.export.subject import Subject, Written


def write_onnx(subject: Subject, folder: Path, name: str) -> Written:
    import onnxruntime

    with torch.no_grad():
        program = torch.onnx.export(
            subject.baked,
            (subject.images,),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx gave no program")
    program.save(folder / name)
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: subject.images.numpy()})
    return Written(torch.from_numpy(np.asarray(output)))
