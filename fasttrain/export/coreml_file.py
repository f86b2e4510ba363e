"""`--format coreml`: an ML Program for Apple's devices, converted by coremltools.

Only macOS runs such a file, so it is written without being compared with the model.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import UserError, first_line
from fasttrain.export.base import Format, Metadata, Run, as_text, from_text
from fasttrain.export.one_by_one import for_one
from fasttrain.export.onnx_file import quietly

_PACKAGE = "model.mlpackage"
_CONVERTER = "com.github.apple.coremltools."  # begins the names of what the converter adds about itself


class CoreMl(Format):
    """A zipped `.mlpackage` with the output `logits`. Weights and arithmetic are float16.

    The input `images` is one picture. With `export(input="float")` it is an array of normalized floats, [1, 3, H, W].
    The package's `user_defined_metadata` holds the metadata: strings unchanged, other values as JSON.
    """

    suffix = ".mlpackage.zip"
    runtime = "Core ML"
    needs = ("coremltools",)
    extra = "coreml"
    unchecked = "Core ML runs on macOS only, so the file isn't compared with the model and its accuracy isn't measured"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        pixels = examples.dtype == torch.uint8
        side = int(examples.shape[2])
        with quietly(), tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
            import coremltools

            _add_addcmul()
            shape = (1, 3, side, side)
            graph = _FromPicture(model).eval() if pixels else model
            input_type = (
                coremltools.ImageType("images", shape=shape, color_layout=coremltools.colorlayout.RGB)
                if pixels
                else coremltools.TensorType("images", shape=shape)
            )
            try:
                with torch.no_grad():
                    traced = torch.jit.trace(graph, torch.zeros(shape), check_trace=False)
                converted = coremltools.convert(
                    traced,
                    inputs=[input_type],
                    outputs=[coremltools.TensorType("logits")],
                    convert_to="mlprogram",
                    compute_precision=coremltools.precision.FLOAT16,
                    minimum_deployment_target=coremltools.target.iOS16,
                )
            except Exception as error:  # the tracer and each operator's converter raise errors of their own
                reason = first_line(error)
                raise UserError(
                    f"--format coreml: coremltools can't convert this model ({reason}); try --format onnx"
                ) from error
            stored = for_one(metadata)
            if pixels:
                stored["input"] = f"one picture of {side} x {side} pixels, RGB, 0..255"
            converted.user_defined_metadata.update({key: as_text(value) for key, value in stored.items()})
            converted.save(str(Path(folder) / _PACKAGE))
            archive = shutil.make_archive(str(Path(folder) / "archive"), "zip", folder, _PACKAGE)
            shutil.copyfile(archive, path)

    def open(self, path: Path, threads: int) -> Run:
        raise UserError(f"{path}: Core ML runs on macOS only; run the file on a Mac")

    def read_metadata(self, path: Path) -> dict[str, Any]:
        with quietly(), tempfile.TemporaryDirectory(prefix="fasttrain-") as folder:
            import coremltools

            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            spec = coremltools.utils.load_spec(str(Path(folder) / _PACKAGE))
        stored = spec.description.metadata.userDefined
        return {key: from_text(text) for key, text in stored.items() if not key.startswith(_CONVERTER)}


class _FromPicture(torch.nn.Module):
    """Makes `model`, which takes [n, H, W, 3], accept a picture as Core ML passes it, float32 [1, 3, H, W]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(picture.permute(0, 2, 3, 1))
        return logits


def _add_addcmul() -> None:
    """Add the operator that normalizes pixels, addcmul, to coremltools. Version 9.0 lacks it."""
    from coremltools.converters.mil import Builder, register_torch_op
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    def addcmul(context: Any, node: Any) -> None:
        added, one, other = _get_inputs(context, node)[:3]  # the factor, the fourth, is 1
        context.add(Builder.add(x=added, y=Builder.mul(x=one, y=other), name=node.name))

    register_torch_op(addcmul, override=True)
