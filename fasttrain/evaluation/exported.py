"""Exported files, run by ONNX Runtime or OpenVINO without torch; their metadata say how to feed them."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.checkpoint.spec_file import spec_of
from fasttrain.config.interpolation import Interpolation, check_interpolation
from fasttrain.cores import usable_cores
from fasttrain.errors import UserError
from fasttrain.evaluation.runtime import Runtime
from fasttrain.extras import require
from fasttrain.model.spec import ModelSpec
from fasttrain.text import read_text


class ExportedRuntime(Runtime):
    """An exported file. It takes pixels, uint8 [n, H, W, 3], or normalized floats, [n, 3, H, W]."""

    def __init__(self, path: Path, interpolation: Interpolation | None) -> None:
        """Open the file. Raises UserError where it is damaged, or says too little about itself."""
        metadata = self._open(path)
        self.spec = _spec(path, metadata)
        if interpolation is not None:
            geometry = replace(self.spec.geometry, interpolation=check_interpolation(interpolation))
            self.spec = replace(self.spec, geometry=geometry)
        mean, std = (np.array(values, np.float32) for values in (self.spec.mean, self.spec.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    @abstractmethod
    def _open(self, path: Path) -> Mapping[str, str]:
        """Open the file and return its metadata, set `_input` to the type of its input."""

    _input: np.dtype[Any]

    @abstractmethod
    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the logits of the file's own input."""

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images: NDArray[Any] = pixels
        if self._input != np.uint8:
            normal = pixels.astype(np.float32) * self._scale + self._shift
            images = np.ascontiguousarray(normal.transpose(0, 3, 1, 2), dtype=self._input)
        return self._run(images).astype(np.float32, copy=False)


class OnnxRuntime(ExportedRuntime):
    """An `.onnx` file. The metadata are its `metadata_props`."""

    def _open(self, path: Path) -> Mapping[str, str]:
        require(str(path), "export", "onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3  # what it can't open it raises as well
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own kinds, which it exports under no name
            raise _not_opened(path, "ONNX Runtime", error) from error
        self._input = np.dtype(_ONNX_TYPES.get(self._session.get_inputs()[0].type, np.float32))
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = self._session.run(None, {self._session.get_inputs()[0].name: images})[0]
        return logits


class OpenVinoRuntime(ExportedRuntime):
    """An `.xml` file with its weights beside it. The metadata are its runtime information below "fasttrain"."""

    def _open(self, path: Path) -> Mapping[str, str]:
        require(str(path), "openvino", "openvino")
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": usable_cores()})
        except RuntimeError as error:
            raise _not_opened(path, "OpenVINO", error) from error
        self._input = model.inputs[0].element_type.to_dtype()
        if not model.has_rt_info(["fasttrain"]):
            return {}
        return {key: value.astype(str) for key, value in model.get_rt_info(["fasttrain"]).astype(dict).items()}

    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = self._compiled.create_infer_request().infer({0: images})[0]
        return logits


def open_exported(path: Path, interpolation: Interpolation | None = None) -> ExportedRuntime:
    """Return the runtime for an `.onnx` or `.xml` file; `interpolation` as in `open_runtime`. Raises UserError."""
    kind = OnnxRuntime if path.suffix.lower() == ".onnx" else OpenVinoRuntime
    return kind(path, interpolation)


_ONNX_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


def _spec(path: Path, metadata: Mapping[str, str]) -> ModelSpec:
    beside = path.with_suffix(".json")
    try:
        if metadata or not beside.is_file():
            return spec_of({key: _value(text) for key, text in metadata.items()})
        return spec_of(json.loads(read_text(beside)))
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: its metadata don't say how to feed it ({type(error).__name__}: {error}); give a file that "
            "`fasttrain export` wrote"
        ) from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _not_opened(path: Path, runtime: str, error: Exception) -> UserError:
    reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return UserError(f"{path}: {runtime} can't open it ({reason}); export the model again")
