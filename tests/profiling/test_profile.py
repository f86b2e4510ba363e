"""`profile` on real steps: a phase that sleeps is the one that is named, and nothing is left behind."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch
from PIL import Image

import fasttrain.profiling.measure as measuring
from fasttrain.augment.batch import BatchAugment
from fasttrain.commands.profile import profile
from fasttrain.errors import UserError
from fasttrain.training.state import Totals
from fasttrain.training.step import PHASES, Step
from tests.profiling.stand_ins import SlowLoader
from tests.support.runs import SMALL, arguments

QUICK = {**SMALL, "image_size": 32, "batch_size": 4, "loader": "instant"}
SLEEP = 0.1


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "WARM_UP", 1)
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {"profile.png"}, "something was left behind"


@pytest.mark.slow
def test_a_slow_loader_is_named_with_the_faster_one(shard_folder):
    found = profile(data=shard_folder, steps=3, **{**QUICK, "loader": "slow"})
    measured = found.measured
    assert found.diagnosis.bottleneck == "data"
    assert found.diagnosis.proposals[0] == "--loader instant"
    assert measured.together.phases["data"].median == pytest.approx(SlowLoader.SECONDS, rel=0.01)
    assert measured.loader_rate == pytest.approx(4 / SlowLoader.SECONDS, rel=0.01)
    assert measured.step_alone.phases["data"].median < SlowLoader.SECONDS / 100, "the held batch needs no loader"


@pytest.mark.parametrize(
    ("owner", "method", "phase", "bottleneck"),
    [
        (BatchAugment, "__call__", "augment", "augment"),
        (Step, "forward", "forward", "model"),
        (Step, "update", "optimizer", "optimizer"),
        (Totals, "update", "logging", "logging"),
    ],
)
@pytest.mark.slow
def test_a_slow_phase_is_named(owner, method, phase, bottleneck, shard_folder, monkeypatch, clock):
    plain = getattr(owner, method)

    def slow(*given):
        clock.sleep(SLEEP)
        return plain(*given)

    monkeypatch.setattr(owner, method, slow)
    found = profile(data=shard_folder, steps=3, color_jitter=0.1, **QUICK)
    for times in (found.measured.together, found.measured.step_alone):
        phases = times.phases
        assert phases[phase].median == pytest.approx(SLEEP, rel=0.01)
        assert sum(each.share for each in phases.values()) == pytest.approx(1)
        assert times.rate == pytest.approx(4 / SLEEP, rel=0.01)
    assert found.diagnosis.bottleneck == bottleneck


@pytest.mark.slow
def test_it_is_real_time_that_is_measured(shard_folder, monkeypatch):
    plain = Step.update

    def slow(*given):
        time.sleep(SLEEP)
        return plain(*given)

    monkeypatch.setattr(measuring, "time", time)
    monkeypatch.setattr(Step, "update", slow)
    found = profile(data=shard_folder, steps=2, **QUICK).measured.step_alone
    assert found.phases["optimizer"].median >= SLEEP and found.rate <= 4 / SLEEP


@pytest.mark.slow
def test_steps_go_on_over_short_epochs_and_every_schedule(shard_folder):
    """Two batches an epoch, of one epoch: the loader starts anew, and the learning rate's schedule does not end."""
    settings = {**QUICK, "epochs": 1, "limit_batches": 2, "grad_accumulation": 2, "ema_decay": 0.9}
    for scheduler in ("onecycle", "cosine"):
        found = profile(data=shard_folder, steps=5, scheduler=scheduler, **settings)
        assert found.measured.together.steps == 5
        assert all(each.mean > 0 for each in found.measured.together.phases.values())


@pytest.mark.slow
def test_the_command_writes_figures_and_a_picture(shard_folder, monkeypatch, capsys, tmp_path):
    from fasttrain.cli import main

    given = arguments(data=shard_folder, **{**QUICK, "loader": "torchvision"})
    for extra in (["--json"], []):
        monkeypatch.setattr(sys, "argv", ["fasttrain", "profile", "--steps", "2", *given, *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        said = capsys.readouterr().out
        if extra:
            figures = json.loads(said)
    said = " ".join(said.split())  # its line breaks depend on the length of the paths
    assert figures["measured"]["together"]["phases"].keys() == set(PHASES)
    assert (figures["split"], figures["photographs"]) == ("train", 78)
    assert "the train split's 78 photographs" in said and "train 78, val 18 photographs" in said
    assert figures["diagnosis"]["sentence"] and figures["loader"] == "torchvision"
    for label in ("waiting for data", "backward", "loader alone", "img/s", "profile.png"):
        assert label in said
    picture = Image.open(tmp_path / "profile.png")
    assert min(picture.size) > 400 and len(picture.convert("RGB").getcolors(1 << 20)) > 20


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"linear_probe": True}, "leave linear_probe out"),
        ({"resume": "auto"}, "profile can't resume a run"),
        ({"batch_size": 0}, "nearest valid value is 1"),
    ],
)
def test_what_can_not_be_profiled_is_said(settings, words, shard_folder):
    with pytest.raises(UserError, match=words):
        profile(data=shard_folder, **{**QUICK, **settings})


def test_one_process_only(shard_folder, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="without torchrun"):
        profile(data=shard_folder, **QUICK)


@pytest.mark.slow
def test_a_held_batch_is_what_the_loader_gave(shard_folder, monkeypatch):
    seen = []
    plain = Step.loss

    def watched(self, model, batch, epoch):
        seen.append(batch.images)
        return plain(self, model, batch, epoch)

    monkeypatch.setattr(Step, "loss", watched)
    profile(data=shard_folder, steps=3, **QUICK)
    assert len({images.data_ptr() for images in seen[-3:]}) == 1, "the step alone sees one batch over and over"
    assert any(torch.equal(seen[-1], images) for images in seen[:-3])


@pytest.mark.slow
def test_mixed_precision_is_proposed_only_where_it_was_faster(shard_folder, monkeypatch, clock):
    """Forward takes twice as long in one of the two precisions, on a machine that says it has kernels for bf16."""
    import fasttrain.commands.profile as profiling

    monkeypatch.setattr(profiling, "amp_problem", lambda device, dtype: None)
    plain = Step.forward
    for slow_in_bf16 in (True, False):

        def forward(self, *given, slow=slow_in_bf16):
            clock.sleep(2 * SLEEP if torch.is_autocast_enabled("cpu") == slow else SLEEP)
            return plain(self, *given)

        monkeypatch.setattr(Step, "forward", forward)
        found = profile(data=shard_folder, steps=3, **QUICK)
        assert found.diagnosis.bottleneck == "model"
        assert ("--amp" in found.diagnosis.proposals) is not slow_in_bf16
        ratio = found.measured.amp_rate / found.measured.step_alone.rate
        assert ratio == pytest.approx(0.5 if slow_in_bf16 else 2.0, rel=0.01)
