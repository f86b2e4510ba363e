"""`--format openvino`: OpenVINO's intermediate representation, for Intel's CPUs, GPUs and NPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fasttrain.export.base import Format, Metadata, Run, as_text, from_text
from fasttrain.export.exported_program import exported

if TYPE_CHECKING:
    import openvino

_SECTION = "fasttrain"


class OpenVino(Format):
    """Input `images`, output `logits`; weights in a `.bin` beside the `.xml`.

    The metadata are runtime information below "fasttrain", as text or JSON.
    """

    suffix = ".xml"
    runtime = "OpenVINO"
    needs = ("openvino",)
    extra = "openvino"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        self.save(self.convert(model, examples), path, metadata)

    def convert(self, model: torch.nn.Module, examples: torch.Tensor) -> openvino.Model:
        """Return `model` as OpenVINO has it, for any number of pictures. Raises UserError where that can't be had."""
        import openvino

        made = openvino.convert_model(exported(model, examples, "openvino"))
        made.reshape(openvino.PartialShape([-1, *examples.shape[1:]]))
        made.inputs[0].get_tensor().set_names({"images"})
        made.outputs[0].get_tensor().set_names({"logits"})
        return made

    def save(self, made: openvino.Model, path: Path, metadata: Metadata) -> None:
        """Write `made` to `path`, weights as they are."""
        import openvino

        for key, value in metadata.items():
            made.set_rt_info(as_text(value), [_SECTION, key])
        openvino.save_model(made, path, compress_to_fp16=False)

    def open(self, path: Path, threads: int) -> Run:
        import openvino

        compiled = openvino.Core().compile_model(
            path, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        )

        def run(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(compiled([images.numpy()])[0].copy())

        return run

    def read_metadata(self, path: Path) -> dict[str, Any]:
        import openvino

        found = openvino.Core().read_model(path).get_rt_info([_SECTION]).astype(dict)
        return {key: from_text(value.astype(str)) for key, value in found.items()}
