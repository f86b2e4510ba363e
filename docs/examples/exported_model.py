"""Name what is in photographs with an exported file: `python exported_model.py model.onnx dinner.jpg lunch.jpg`.

Needs NumPy, Pillow and the runtime of the file: `onnxruntime` for .onnx, `openvino` for .xml, `ai-edge-litert` for
.tflite, and `executorch` with torch for .pte. All else that is to be known, the classes, the size and what the logits
mean, is in the file's metadata.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
from photograph import load_photograph


def open_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda images: session.run(["logits"], {"images": images})[0], session.get_modelmeta().custom_metadata_map


def open_openvino(path):
    import openvino

    model = openvino.Core().read_model(path)
    said = model.get_rt_info(["fasttrain"]).astype(dict)
    model.reshape([1, *list(model.inputs[0].partial_shape)[1:]])  # a variable batch size crashes some CPUs
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # else some use bfloat16
    return lambda images: compiled([images])[0], {key: value.astype(str) for key, value in said.items()}


def open_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(images):
        interpreter.set_tensor(taken, images)
        interpreter.invoke()
        return interpreter.get_tensor(given)

    with zipfile.ZipFile(path) as archive:  # it is at the end of the file
        return run, as_text(json.loads(archive.read("metadata.json")))


def open_executorch(path):
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    forward, said = program.load_method("forward"), program.load_method("metadata").execute([])[0]
    return lambda images: forward.execute([torch.from_numpy(images)])[0].numpy(), as_text(json.loads(said))


def as_text(metadata):
    return {key: each if isinstance(each, str) else json.dumps(each) for key, each in metadata.items()}


OPEN = {".onnx": open_onnx, ".xml": open_openvino, ".tflite": open_litert, ".pte": open_executorch}


def name_classes(logits, metadata):
    """Return the names of the classes that one photograph's logits mean, and their probabilities."""
    classes = json.loads(metadata["classes"])
    if "thresholds" in metadata:  # each class is a decision of its own
        likely = 1 / (1 + np.exp(-logits))
        seen = np.flatnonzero(likely >= json.loads(metadata["thresholds"]))
        return [(classes[each], likely[each]) for each in seen[np.argsort(-likely[seen])]]
    scaled = logits / float(metadata["temperature"])
    likely = np.exp(scaled - scaled.max())
    likely /= likely.sum()
    best = likely.argmax()
    unknown = likely[best] < float(metadata.get("reject_threshold", 0))
    return [("unknown" if unknown else classes[best], likely[best])]


def main():
    path, *photographs = sys.argv[1:]
    run, metadata = OPEN[Path(path).suffix](path)
    seen = {"crop_pct": float(metadata["crop_pct"])}
    seen |= {key: metadata[key] for key in ("resize_mode", "interpolation")}
    for photograph in photographs:
        pixels = load_photograph(photograph, int(metadata["image_size"]), **seen)
        found = name_classes(run(pixels[None])[0], metadata)
        print(photograph, *(f"{name} {share:.3f}" for name, share in found), sep="\t")


if __name__ == "__main__":
    main()
