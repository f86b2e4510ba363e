"""`--model hf-hub:owner/name`: downloaded once, and a run of it needs no hub after its start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

from fasttrain import evaluate, predict, train
from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from fasttrain.export.export import export
from fasttrain.model import hub as models
from fasttrain.model.factory import create_model
from fasttrain.model.names import pretrained_config, require_model
from tests.support import tiny_timm
from tests.support.hub_server import Hub, has_hf_hub, needs_hub, running_hub, stop
from tests.support.runs import killed_after

DATA = Path(__file__).parents[1] / "shards" / "first_release"
SETTINGS = {"image_size": 32, "batch_size": 4, "epochs": 2, "workers": 0, "device": "cpu", "loader": "torchvision"}
SETTINGS |= {"deterministic": True, "track": False, "save_every": 1, "data": DATA / "shards"}
SHAPE = {"channels": [2, 4, 4, 8]}

assert tiny_timm.fasttrain_tiny, "timm knows the model once it is imported"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with `me/tiny`, of another shape and mean than timm's own."""
    monkeypatch.setattr(models, "_known", {})
    torch.manual_seed(0)
    weights = timm.create_model("fasttrain_tiny", num_classes=5, **SHAPE).state_dict()
    config = {
        "architecture": "fasttrain_tiny",
        "num_classes": 5,
        "model_args": {**SHAPE, "checkpoint_path": "/etc/passwd"},
        "pretrained_cfg": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.2, 0.2, 0.2],
            "interpolation": "bicubic",
            "num_classes": 5,
        },
    }
    config["pretrained_cfg"] |= {"input_size": [3, 32, 32], "classifier": "fc", "first_conv": "conv1.0"}
    with running_hub(tmp_path / "cache") as hub:
        files = {"config.json": json.dumps(config).encode(), "model.safetensors": save(weights)}
        hub.repositories["me/tiny"] = files
        yield hub


def away(hub: Hub) -> None:
    """Have no hub any more, and remember nothing of it, as another process would."""
    stop(hub)
    models._known.clear()


@needs_hub
@pytest.mark.slow
def test_a_run_of_a_hubs_model_resumes_and_is_used_without_a_hub(hub: Hub, tmp_path: Path) -> None:
    alone = train(model="hf-hub:me/tiny", out=tmp_path / "alone", **SETTINGS)
    with killed_after(lambda state: state["step"] == 4):
        train(model="hf-hub:me/tiny", out=tmp_path / "killed", **SETTINGS)
    away(hub)
    shutil.rmtree(tmp_path / "cache")
    (killed,) = (tmp_path / "killed").iterdir()
    again = train(resume=str(killed))
    assert [each["val_loss"] for each in again.history] == [each["val_loss"] for each in alone.history]
    models._known.clear()
    ours, spec = load_trained(killed)
    assert spec.name == "hf-hub:me/tiny" and spec.mean == (0.1, 0.2, 0.3) and spec.geometry.interpolation == "bilinear"
    assert all(
        torch.equal(each, ours.state_dict()[key]) for key, each in load_trained(alone.folder)[0].state_dict().items()
    )
    found = evaluate(killed, DATA / "shards", split="val", loader="torchvision")
    assert found.loss == pytest.approx(again.evaluation.loss)
    (prediction,) = predict(killed, [DATA / "photographs" / "hat" / "00.jpg"])
    assert prediction.classes[0] in ("dress", "hat")
    assert export(killed, "torchscript", speed=False, photographs=4).same_top1 == 4


@needs_hub
def test_it_is_downloaded_once(hub: Hub) -> None:
    made = create_model("hf-hub:me/tiny", 5, pretrained=True)
    weights = hub.repositories["me/tiny"]["model.safetensors"]
    away(hub)
    again = create_model("hf_hub:me/tiny", 5, pretrained=True)
    assert save(made.state_dict()) == save(again.state_dict()) and len(weights) > 0
    assert again.state_dict()["layer2.0.conv1.weight"].shape[0] == 4
    few = create_model("hf-hub:me/tiny", 2, pretrained=True)
    assert torch.equal(few.state_dict()["conv1.0.weight"], made.state_dict()["conv1.0.weight"])
    assert pretrained_config("hf-hub:me/tiny").interpolation == "bicubic"


@needs_hub
def test_the_weights_of_a_tag_of_timms_are_downloaded_once(hub: Hub) -> None:
    weights = timm.create_model("test_resnet").state_dict()
    hub.repositories["timm/test_resnet.r160_in1k"] = {"model.safetensors": save(weights)}
    create_model("test_resnet.r160_in1k", 3, pretrained=True)
    away(hub)
    again = create_model("test_resnet.r160_in1k", 3, pretrained=True).state_dict()
    assert torch.equal(again["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])


@needs_hub
def test_what_is_no_model_of_timms_is_refused_in_a_line(hub: Hub) -> None:
    hub.repositories["me/vit"] = {"config.json": b'{"model_type": "vit"}'}
    hub.repositories["me/newer"] = {"config.json": b'{"architecture": "newer", "pretrained_cfg": {}}'}
    for name, said in (
        ("me/none", r"its config\.json can't be downloaded \(RepositoryNotFoundError"),
        ("me/vit", r"its config\.json lacks 'architecture', so timm can't make it"),
        ("me/newer", "has no newer; try a newer timm"),
    ):
        with pytest.raises(UserError, match=f"model = 'hf-hub:{name}'.*{said}"):
            require_model(f"hf-hub:{name}")
    away(hub)
    with pytest.raises(UserError, match=r"model = 'hf-hub:me/tiny': its config\.json can't be downloaded"):
        require_model("hf-hub:me/tiny")


@pytest.mark.skipif(has_hf_hub(), reason="this timm works with the huggingface_hub that is installed")
def test_a_timm_that_is_too_old_is_said(hub: Hub) -> None:
    with pytest.raises(UserError, match=r"model = 'hf-hub:me/tiny': timm .* does not work with .*; upgrade timm"):
        require_model("hf-hub:me/tiny")
