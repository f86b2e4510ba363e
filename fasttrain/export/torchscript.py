"""`--format torchscript`: a trace, for C++ and mobile runtimes."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import UserError
from fasttrain.export.base import METADATA, Format, Metadata, Run, inferring


class TorchScript(Format):
    """The metadata are JSON, in the extra file `metadata.json`."""

    suffix = ".torchscript"
    runtime = "TorchScript"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch calls TorchScript deprecated at each call
            try:
                traced = torch.jit.trace(model, examples[:2], check_trace=False)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"--format torchscript: torch can't export this model ({reason})") from error
            # Not into the file: where the disk is full, torch's writer ends the whole process.
            file = io.BytesIO()
            said = json.dumps(metadata, ensure_ascii=False)
            torch.jit.save(torch.jit.freeze(traced), file, _extra_files={METADATA: said})
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
        whole: dict[str, Any] = json.loads(found[METADATA])
        return whole
