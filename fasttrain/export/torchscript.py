"""`--format torchscript`: a traced model, for C++ and mobile runtimes."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import UserError, first_line
from fasttrain.export.base import METADATA, Format, Metadata, Run, inferring


class TorchScript(Format):
    """The TorchScript format (torch.jit). The metadata are JSON in the archive's `metadata.json`."""

    suffix = ".torchscript"
    runtime = "TorchScript"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # each call of torch.jit warns that TorchScript is deprecated
            try:
                traced = torch.jit.trace(model, examples[:2], check_trace=False)
            except RuntimeError as error:
                reason = first_line(error)
                raise UserError(
                    f"--format torchscript: torch can't export this model ({reason}); try --format onnx"
                ) from error
            # Save to memory first: if the disk is full, torch's file writer aborts the process.
            file = io.BytesIO()
            text = json.dumps(metadata, ensure_ascii=False)
            torch.jit.save(torch.jit.freeze(traced), file, _extra_files={METADATA: text})
        path.write_bytes(file.getbuffer())

    def open(self, path: Path, threads: int) -> Run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return inferring(torch.jit.load(str(path)))

    def read_metadata(self, path: Path) -> dict[str, Any]:
        found = {METADATA: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.load(str(path), _extra_files=found)
        values: dict[str, Any] = json.loads(found[METADATA])
        return values
