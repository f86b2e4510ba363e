"""`--format executorch`: a `.pte` program for phones and small boards, for the XNNPACK backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fasttrain.errors import UserError, first_line
from fasttrain.export.base import Format, Metadata, Run
from fasttrain.export.one_by_one import in_batches
from fasttrain.export.onnx_file import quietly

_METADATA = "metadata"
_MOST = 15  # photographs at once: memory is planned in advance, and lowering a convolution allows no greater limit


class ExecuTorch(Format):
    """The ExecuTorch format. The file's method `forward` returns the logits; its method `metadata` returns JSON."""

    suffix = ".pte"
    runtime = "ExecuTorch"
    needs = ("executorch",)
    extra = "executorch"

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        stored = {**metadata, "input": f"{metadata['input']}; n is at most {_MOST}"}
        with quietly():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            try:
                count = torch.export.Dim("n", max=_MOST)
                program = torch.export.export(model, (examples[:2],), dynamic_shapes=({0: count},))
                compiled = to_edge_transform_and_lower(
                    program,
                    partitioner=[XnnpackPartitioner()],
                    constant_methods={_METADATA: json.dumps(stored, ensure_ascii=False)},
                ).to_executorch()
            except Exception as error:  # torch.export, the passes and the backend each raise errors of their own
                reason = first_line(error)
                raise UserError(
                    f"--format executorch: ExecuTorch can't compile this model ({reason}); try --format onnx"
                ) from error
        path.write_bytes(compiled.buffer)

    def open(self, path: Path, threads: int) -> Run:
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
        forward = _method(path, "forward")
        return in_batches(lambda images: forward(images.contiguous()), _MOST)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        metadata: dict[str, Any] = json.loads(_method(path, _METADATA)())
        return metadata


def _method(path: Path, name: str) -> Any:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method(name)
    return lambda *images: method.execute(images)[0]
