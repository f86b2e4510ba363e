"""`--format openvino`: OpenVINO's intermediate representation, for Intel's CPUs, GPUs and NPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fasttrain.evaluation.openvino_cpu import compile_for_cpu
from fasttrain.export.base import Format, Metadata, Run, as_text, from_text
from fasttrain.export.onnx_file import Onnx

if TYPE_CHECKING:
    import openvino

_SECTION = "fasttrain"


@contextmanager
def converted(model: torch.nn.Module, examples: torch.Tensor) -> Iterator[openvino.Model]:
    """Yield `model`, a PyTorch model, converted to OpenVINO by way of ONNX. Use the result only within the context.

    `examples`: inputs of the model, [n, ...], with n at least 2. Raises UserError if the model can't be converted.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
        plain = Path(folder) / "model.onnx"
        Onnx().write(model, examples, plain, {})
        yield openvino.Core().read_model(plain)  # `openvino.convert_model` would send telemetry


def save(made: openvino.Model, path: Path, metadata: Metadata) -> None:
    """Write the OpenVINO model `made` with `metadata` to `path`. Weights keep their dtype."""
    import openvino

    for key, value in metadata.items():
        made.set_rt_info(as_text(value), [_SECTION, key])
    openvino.save_model(made, path, compress_to_fp16=False)


class OpenVino(Format):
    """OpenVINO's format, with the input `images` and the output `logits`. Weights are in a `.bin` beside the `.xml`.

    The section "fasttrain" of the file's runtime information holds the metadata: strings unchanged, others as JSON.
    """

    suffix = ".xml"
    runtime = "OpenVINO"
    needs: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")
    extra = "openvino"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        with converted(model, examples) as made:
            save(made, path, metadata)

    def open(self, path: Path, threads: int) -> Run:
        import openvino

        compiled = compile_for_cpu(openvino.Core().read_model(path), threads)
        return lambda images: torch.from_numpy(compiled(images.numpy()))

    def read_metadata(self, path: Path) -> dict[str, Any]:
        import openvino

        found = openvino.Core().read_model(path).get_rt_info([_SECTION]).astype(dict)
        return {key: from_text(value.astype(str)) for key, value in found.items()}
