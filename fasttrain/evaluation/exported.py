"""Run exported models with ONNX Runtime or OpenVINO, without torch.

The metadata in an exported file describe its input, so that it can be used like the original model.
"""

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
from fasttrain.evaluation.openvino_cpu import compile_for_cpu
from fasttrain.evaluation.runtime import Runtime
from fasttrain.extras import require
from fasttrain.model.spec import ModelSpec
from fasttrain.text import read_text


class ExportedRuntime(Runtime):
    """A model from a file that `fasttrain export` wrote.

    The file's model takes pixels, uint8 [n, H, W, 3], if it was exported with its normalization, otherwise normalized
    floats, [n, 3, H, W]. `logits` takes pixels in both cases.
    """

    def __init__(self, path: Path, interpolation: Interpolation | None) -> None:
        """Open the file. Raises UserError if it is damaged or its metadata are incomplete."""
        metadata = self._open(path)
        self.spec = _spec(path, metadata)
        if interpolation is not None:
            geometry = replace(self.spec.geometry, interpolation=check_interpolation(interpolation))
            self.spec = replace(self.spec, geometry=geometry)
        mean, std = (np.array(values, np.float32) for values in (self.spec.mean, self.spec.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    @abstractmethod
    def _open(self, path: Path) -> Mapping[str, str]:
        """Open the file, set `_input` to the dtype of the model's input, and return the file's metadata."""

    _input: np.dtype[Any]

    @abstractmethod
    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        """Run the model and return its logits, float [n, classes].

        `images`: uint8 [n, H, W, 3] if `_input` is uint8, else normalized floats of that dtype, [n, 3, H, W].
        """

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images: NDArray[Any] = pixels
        if self._input != np.uint8:
            normal = pixels.astype(np.float32) * self._scale + self._shift
            images = np.ascontiguousarray(normal.transpose(0, 3, 1, 2), dtype=self._input)
        return self._run(images).astype(np.float32, copy=False)


class OnnxRuntime(ExportedRuntime):
    """A model from an `.onnx` file. Its metadata are the file's `metadata_props`."""

    def _open(self, path: Path) -> Mapping[str, str]:
        require(str(path), "export", "onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3  # errors only: a file that can't be opened also raises
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exception classes have no public names
            raise _open_error(path, "ONNX Runtime", error) from error
        self._input = np.dtype(_ONNX_TYPES.get(self._session.get_inputs()[0].type, np.float32))
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = self._session.run(None, {self._session.get_inputs()[0].name: images})[0]
        return logits


class OpenVinoRuntime(ExportedRuntime):
    """A model from OpenVINO's `.xml` file, with its weights in a `.bin` beside it.

    Its metadata are the entry "fasttrain" of the file's runtime information (`rt_info`).
    """

    def _open(self, path: Path) -> Mapping[str, str]:
        require(str(path), "openvino", "openvino")
        import openvino

        try:
            model = openvino.Core().read_model(path)
            self._compiled = compile_for_cpu(model, usable_cores())
        except RuntimeError as error:
            raise _open_error(path, "OpenVINO", error) from error
        self._input = model.inputs[0].element_type.to_dtype()
        if not model.has_rt_info(["fasttrain"]):
            return {}
        return {key: value.astype(str) for key, value in model.get_rt_info(["fasttrain"]).astype(dict).items()}

    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        return self._compiled(images)


def open_exported(path: Path, interpolation: Interpolation | None = None) -> ExportedRuntime:
    """Open an `.onnx` or `.xml` file and return its runtime.

    `interpolation`: the filter that resizes photographs, "bilinear" or "bicubic"; None means the one in the file's
    metadata. Raises UserError if the file can't be opened.
    """
    kind = OnnxRuntime if path.suffix.lower() == ".onnx" else OpenVinoRuntime
    return kind(path, interpolation)


_ONNX_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


def _spec(path: Path, metadata: Mapping[str, str]) -> ModelSpec:
    """Return the spec in the file's metadata or, if there are none, in the `.json` file beside it."""
    json_file = path.with_suffix(".json")
    try:
        if metadata or not json_file.is_file():
            return spec_of({key: _from_json(text) for key, text in metadata.items()})
        return spec_of(json.loads(read_text(json_file)))
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: its metadata don't describe the model's input ({type(error).__name__}: {error}); "
            "give a file that `fasttrain export` wrote"
        ) from None


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _open_error(path: Path, runtime: str, error: Exception) -> UserError:
    reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return UserError(f"{path}: {runtime} can't open the file ({reason}); export the model again")
