"""`provenance.json`: the command, the versions and the commit that made a run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

import fasttrain
from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.commands import provenance
from fasttrain.commands.provenance import Provenance, command_line, tags_of
from fasttrain.version import __version__
from tests.support.patience import wait_until

GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one commit, and a folder in it."""
    folder = tmp_path / "project" / "experiments"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text("print(1)\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*GIT, *arguments], cwd=folder.parent, check=True)
    return folder


def asked(folder: Path) -> dict[str, object]:
    """Return what git says of `folder`, however busy the machine is."""
    made = Provenance(folder)
    wait_until(lambda: not made._thread.is_alive())
    found: dict[str, object] = made.to_dict(0)["git"]
    return found


def test_the_commit_is_that_of_the_working_folder(project: Path) -> None:
    commit = subprocess.check_output([*GIT, "rev-parse", "HEAD"], cwd=project, text=True).strip()
    known = {"root": str(project.parent), "commit": commit}
    (project / "runs").mkdir()
    (project / "runs" / "new.txt").touch()
    assert asked(project) == {**known, "clean": True}
    (project / "train.py").write_text("print(2)\n")
    assert asked(project) == {**known, "clean": False}


def test_no_repository_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not a git repository" in str(asked(tmp_path)["problem"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asked(tmp_path) == {"problem": "git is not installed"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_somebody_else_is_left_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("HOME", str(project))  # whose git settings name no safe folders
    for each in (project.parent, project.parent / ".git"):
        os.chown(each, 12345, 12345)
    assert "dubious ownership" in str(asked(project)["problem"])


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for git")
def test_a_slow_git_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 5\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "_WAIT_S", 0.05)
    made, began = Provenance(tmp_path), time.monotonic()
    assert made.to_dict(7)["git"] == {"problem": "git did not answer within 0.05 s"}
    assert time.monotonic() - began < 4


def test_the_command_and_the_versions(tmp_path: Path) -> None:
    start = Provenance(tmp_path).to_dict(7)
    assert start["step"] == 7 and start["folder"] == str(tmp_path)
    assert start["versions"].keys() >= {"torch", "timm", "numpy"} and start["versions"]["fasttrain"] == __version__
    assert command_line(["/opt/bin/fasttrain", "train", "--run-name", "a b"]) == "fasttrain train --run-name 'a b'"
    own = str(Path(fasttrain.__file__).with_name("__main__.py"))
    assert command_line([own, "train"]) == "fasttrain train"
    assert command_line(["train_it.py"]) == "python train_it.py"
    assert "secret" not in command_line(["fasttrain", "train", "--data", "s3://me:secret@host/shards"])


def test_a_resumed_run_adds_its_start_and_what_is_unreadable_begins_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for text in ("{", '{"starts": 3}', None):
        if text is not None:
            folder.provenance.write_text(text)
        folder.add_start({"step": len(text or "more")})
    assert json.loads(folder.provenance.read_text()) == {"schema": 1, "starts": [{"step": 13}, {"step": 4}]}


def test_mlflow_shows_the_command_and_the_commit() -> None:
    start = {"command": "fasttrain train --data a/b", "git": {"root": "/p", "commit": "abc", "clean": False}}
    source = {"mlflow.source.name": "fasttrain train", "mlflow.source.type": "LOCAL", "command": start["command"]}
    assert tags_of(start) == {**source, "mlflow.source.git.commit": "abc", "mlflow.source.git.dirty": "true"}
    assert tags_of({**start, "git": {"problem": "git is not installed"}}) == source
    script = {**start, "command": "python a/train_it.py 3", "git": {}}
    assert tags_of(script)["mlflow.source.name"] == "a/train_it.py"
