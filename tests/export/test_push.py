"""`push`: what timm's and transformers' loaders make of a run's repository gives the run's own logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import yaml

from fasttrain import predict
from fasttrain.checkpoint.trained import load_trained
from fasttrain.commands.push import push
from fasttrain.errors import UserError
from tests.support import tiny_timm
from tests.support.hub_server import Hub, needs_hub, running_hub

TESTS = Path(__file__).parents[1]
FIRST = TESTS / "shards" / "first_release"
PICTURES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

assert tiny_timm.fasttrain_tiny, "timm knows the model once it is imported"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of a tiny model, which divides its logits by 1.5."""
    run = shutil.copytree(TESTS / "checkpoint" / "first_release" / "finished", tmp_path / "run")
    spec = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**spec, "temperature": 1.5, "crop_pct": 0.9}))
    config = (run / "config.toml").read_text().replace("/tmp/gen/shards", str(FIRST / "shards"))
    (run / "config.toml").write_text(config)
    evaluation = json.loads((run / "evaluation.json").read_text())
    more = {"ece": 0.031, "uncalibrated_ece": 0.072, "top1_interval": [0.25, 0.75]}
    (run / "evaluation.json").write_text(json.dumps({**evaluation, **more}))
    (run / "confusion_matrix.png").write_bytes(b"a picture")
    return run


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path / "cache") as hub:
        yield hub


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(PICTURES)
        return found


def test_timm_loads_the_folder_and_prepares_pictures_alike(run: Path, tmp_path: Path) -> None:
    try:
        timm.models.parse_model_name("local-dir:out")
    except AssertionError:
        pytest.skip("this timm knows no local-dir")
    result = push(run, "me/clothes", out=tmp_path / "out")
    assert set(result.files) == {path.name for path in (tmp_path / "out").iterdir()} and result.url is None
    made = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert torch.equal(logits(made), logits(load_trained(run)[0]))
    data = timm.data.resolve_model_data_config(made)
    assert tuple(data["input_size"]) == (3, 32, 32)
    assert data["crop_pct"] == 0.9 and data["crop_mode"] == "center"
    assert list(made.pretrained_cfg["label_names"]) == ["dress", "hat"]
    picture = FIRST / "photographs" / "hat" / "00.jpg"
    ours, again = (next(iter(predict(each, [picture]))) for each in (run, tmp_path / "out"))
    assert ours.probabilities == again.probabilities, "the folder is one that fasttrain takes, too"


def test_the_card_is_made_of_the_runs_figures(run: Path, tmp_path: Path) -> None:
    push(run, "me/clothes", out=tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "timm" and values["pipeline_tag"] == "image-classification"
    (result,) = values["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.5}]
    for expected in (
        "photographs 12 for train, 4 for val.",
        "| top-1 | 50.0% (25.0% to 75.0%) |",
        "On the 4 photographs of the val split, on which the best epoch was chosen",
        "error is 3.10% at temperature 1.5",
        "![Confusion matrix](confusion_matrix.png)",
        "## Intended use",
        "epochs = 3",
    ):
        assert expected in text, expected
    assert sum(line.startswith(("| dress | hat |", "| hat | dress |")) for line in text.splitlines())


def test_names_of_classes_are_no_markup(run: Path, tmp_path: Path) -> None:
    spec = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**spec, "classes": ["a|b", "<b>\n# x"]}))
    push(run, "me/clothes", out=tmp_path / "out")
    assert "Classes: a\\|b, &lt;b&gt; \\# x." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_transformers_loads_the_folder(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    push(run, "me/clothes", out=tmp_path / "out")
    made = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert made.config.id2label == {0: "dress", 1: "hat"}
    with torch.inference_mode():
        assert torch.equal(made.eval()(PICTURES).logits, logits(load_trained(run)[0]))


@needs_hub
def test_uploaded_it_is_what_timm_loads_from_the_hub(run: Path, hub: Hub) -> None:
    result = push(run, "me/clothes", private=True)
    assert result.url == f"{hub.url}/me/clothes" and hub.private == ["me/clothes"]
    assert set(hub.repositories["me/clothes"]) == set(result.files)
    made = timm.create_model("hf-hub:me/clothes", pretrained=True)
    assert torch.equal(logits(made), logits(load_trained(run)[0]))
    card = huggingface_hub.hf_hub_download("me/clothes", "README.md")
    assert "# clothes" in Path(card).read_text()


def test_what_cannot_be_pushed_is_said_in_a_line(run: Path, hub: Hub, tmp_path: Path) -> None:
    hub.refuses = True
    with pytest.raises(UserError, match=r"me/clothes: the upload failed .*log in with `hf auth login`"):
        push(run, "me/clothes")
    with pytest.raises(UserError, match="clothes is not the name of a repository; write OWNER/NAME"):
        push(run, "clothes")
    with pytest.raises(UserError, match="not an empty folder; choose another --out"):
        push(run, "me/clothes", out=run)
    (run / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"the model card needs evaluation\.json, which is missing; finish the run"):
        push(run, "me/clothes", out=tmp_path / "out")
