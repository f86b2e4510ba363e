"""`--format exported-program`: torch.export's `.pt2` archive, for AOTInductor and ExecuTorch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import UserError, first_line
from fasttrain.export.base import METADATA, Format, Metadata, Run, inferring


class ExportedProgram(Format):
    """The `.pt2` format (torch.export). The metadata are JSON in the archive's `metadata.json`."""

    suffix = ".pt2"
    runtime = "torch.export"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        try:
            program = torch.export.export(model, (examples[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
        except Exception as error:  # dynamo, the tracer and the shape solver raise exceptions of their own
            reason = first_line(error)
            raise UserError(
                f"--format exported-program: torch can't export this model ({reason}); try --format onnx"
            ) from error
        # Save to memory first: if the disk is full, torch's file writer aborts the process.
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata, ensure_ascii=False)})
        path.write_bytes(file.getbuffer())

    def open(self, path: Path, threads: int) -> Run:
        return inferring(torch.export.load(str(path)).module())

    def read_metadata(self, path: Path) -> dict[str, Any]:
        found = {METADATA: ""}
        torch.export.load(str(path), extra_files=found)
        metadata: dict[str, Any] = json.loads(found[METADATA])
        return metadata
