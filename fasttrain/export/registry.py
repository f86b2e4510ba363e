"""The list of export formats. A new format is a new file and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fasttrain.errors import UserError
from fasttrain.extras import require
from fasttrain.text import nearest

if TYPE_CHECKING:
    from fasttrain.export.base import Format

FORMATS = {
    "onnx": "fasttrain.export.onnx_file:Onnx",
    "onnx-fp16": "fasttrain.export.onnx_fp16:OnnxHalf",
    "onnx-int8": "fasttrain.export.onnx_int8:OnnxInt8",
    "openvino": "fasttrain.export.openvino_file:OpenVino",
    "openvino-int8": "fasttrain.export.openvino_int8:OpenVinoInt8",
    "torchscript": "fasttrain.export.torchscript:TorchScript",
    "litert": "fasttrain.export.litert_file:LiteRt",
    "coreml": "fasttrain.export.coreml_file:CoreMl",
    "executorch": "fasttrain.export.executorch_file:ExecuTorch",
    "exported-program": "fasttrain.export.exported_program:ExportedProgram",
}


def make_format(name: str) -> Format:
    """Return the format registered as `name`.

    Raises UserError if no format has this name, with the nearest one in the message, or if a package that the format
    needs isn't installed, with the command that installs it.
    """
    if name not in FORMATS:
        raise UserError(f"--format {name} is not one of {', '.join(FORMATS)}{nearest(name, list(FORMATS))}")
    module, _, attribute = FORMATS[name].partition(":")
    found: Format = getattr(import_module(module), attribute)()
    require(f"--format {name}", found.extra, *found.needs)
    return found
