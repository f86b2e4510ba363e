"""`--format onnx`: a file for ONNX Runtime, written by torch's exporter."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fasttrain.errors import UserError
from fasttrain.export.base import Format, Metadata, Run, as_text, from_text

if TYPE_CHECKING:
    import onnx

_MOST_IN_ONE_FILE = 1_800_000_000  # bytes of weights; protobuf's limit is 2 GiB


class Onnx(Format):
    """The ONNX format, with the input `images` and the output `logits`.

    The file's `metadata_props` hold the metadata: strings unchanged, other values as JSON.
    """

    suffix = ".onnx"
    runtime = "ONNX Runtime"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def write(self, model: torch.nn.Module, examples: torch.Tensor, path: Path, metadata: Metadata) -> None:
        import onnx

        with quietly():
            try:
                program = torch.onnx.export(
                    model,
                    (examples[:2],),
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_shapes=({0: torch.export.Dim("n")},),
                    dynamo=True,
                    verbose=False,
                )
            except torch.onnx.OnnxExporterError as error:
                raise UserError(
                    f"torch can't export this model to ONNX ({_reason(error)}); try --format torchscript"
                ) from error
        assert program is not None
        program.model.metadata_props.update({key: as_text(value) for key, value in metadata.items()})
        size = sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
        program.save(str(path), external_data=size > _MOST_IN_ONE_FILE)
        onnx.checker.check_model(str(path), full_check=True)

    def open(self, path: Path, threads: int) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

        return run

    def read_metadata(self, path: Path) -> dict[str, Any]:
        import onnx

        found = onnx.load(str(path), load_external_data=False).metadata_props
        return {each.key: from_text(each.value) for each in found}


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` to `path`. Weights of more than 1.8 GB go to a second file, `path` with `.data` behind its name."""
    import onnx

    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # otherwise the weights would be appended to it
    size = sum(len(each.raw_data) for each in model.graph.initializer)
    onnx.save(model, str(path), save_as_external_data=size > _MOST_IN_ONE_FILE, location=data.name)
    onnx.checker.check_model(str(path), full_check=True)


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress printed output and warnings in this context, as exporters and quantizers print much of no use."""
    loggers = [
        logging.getLogger(name) for name in ("root", "torch.onnx", "torch.utils._pytree", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the first line of the error that caused `error`, or of the first one in a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
