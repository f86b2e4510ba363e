"""`--format litert`: a `.tflite` file for Android, iOS and small boards, converted by `litert-torch`."""

from __future__ import annotations

import functools
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fasttrain.errors import UserError, first_line
from fasttrain.export.base import METADATA, Format, Metadata, Run
from fasttrain.export.one_by_one import for_one, in_batches
from fasttrain.export.onnx_file import quietly

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


class LiteRt(Format):
    """The LiteRT format. The metadata are JSON, in `metadata.json` of the zip archive at the end of the file.

    TensorFlow Lite keeps associated files in this archive, so any program that opens zip archives can read them.
    """

    suffix = ".tflite"
    runtime = "LiteRT"
    needs = ("litert_torch", "ai_edge_litert")
    extra = "litert"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        with quietly():
            import litert_torch

            try:
                converted = litert_torch.convert(model, (examples[:1],))
            except Exception as error:  # torch.export, JAX and the converter each raise errors of their own
                reason = first_line(error)
                raise UserError(
                    f"--format litert: litert-torch can't convert this model ({reason}); try --format onnx"
                ) from error
            converted.export(str(path))
        stored = metadata if _takes_several(path, examples) else for_one(metadata)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(METADATA, json.dumps(stored, ensure_ascii=False))

    def open(self, path: Path, threads: int) -> Run:
        run = functools.partial(_logits, _interpreter(path, threads))
        return in_batches(run, 1) if "[1, " in self.read_metadata(path)["input"] else run

    def read_metadata(self, path: Path) -> dict[str, Any]:
        with zipfile.ZipFile(path) as archive:
            metadata: dict[str, Any] = json.loads(archive.read(METADATA))
        return metadata


def _interpreter(path: Path, threads: int) -> Interpreter:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path), num_threads=threads)


def _logits(interpreter: Interpreter, images: torch.Tensor) -> torch.Tensor:
    """Return the logits of `images`. Raises RuntimeError or ValueError if the file doesn't take so many at once."""
    input, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = list(images.shape)
    if input["shape"].tolist() != shape:
        interpreter.resize_tensor_input(input["index"], shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(input["index"], images.numpy())
    interpreter.invoke()
    return torch.from_numpy(interpreter.get_tensor(output["index"]))


def _takes_several(path: Path, examples: torch.Tensor) -> bool:
    """Return whether the file takes several photographs at once. For some models the converter allows only one."""
    try:
        return len(_logits(_interpreter(path, 1), examples[:2])) == 2
    except (RuntimeError, ValueError):
        return False
