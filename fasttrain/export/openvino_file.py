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
    """Yield `model` as an OpenVINO model, which exists only within the context. The model is converted by way of ONNX.

    `examples`: as in `Format.write`. Raises UserError if the model can't be converted.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
        plain = Path(folder) / "model.onnx"
        Onnx().write(model, examples, plain, {})
        yield openvino.Core().read_model(plain)  # `openvino.convert_model` would send telemetry


def save(made: openvino.Model, path: Path, metadata: Metadata) -> None:
    """Write `made` with `metadata` to `path`, without compressing the weights to float16."""
    import openvino

    for key, value in metadata.items():
        made.set_rt_info(as_text(value), [_SECTION, key])
    openvino.save_model(made, path, compress_to_fp16=False)


class OpenVino(Format):
    """OpenVINO's format, with the input `images` and the output `logits`. Weights are in a `.bin` beside the `.xml`.

    The metadata are runtime information below "fasttrain", as strings or JSON.
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
        return lambda images: torch.from_numpy(compiled(images.numpy()).copy())

    def read_metadata(self, path: Path) -> dict[str, Any]:
        import openvino

        found = openvino.Core().read_model(path).get_rt_info([_SECTION]).astype(dict)
        return {key: from_text(value.astype(str)) for key, value in found.items()}
