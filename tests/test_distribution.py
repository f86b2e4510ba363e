"""The distribution is `fasttrain-vision`: `fasttrain` on the Python Package Index is another project."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import fasttrain
from fasttrain import extras
from fasttrain.commands import doctor
from fasttrain.commands.doctor import dali_mismatch
from fasttrain.extras import DISTRIBUTION, dali_extra, install

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FOLDERS = (".ci", ".devcontainer", "benchmarks", "docs", "fasttrain", "notebooks", "recipe", "tests", "tools")
TEXT = {"", ".cfg", ".cff", ".ipynb", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}


def texts() -> dict[Path, str]:
    """Return the text of every file in which an installation could be named."""
    files = [*ROOT.glob("*"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*"))]
    chosen = [file for file in files if file.suffix in TEXT and file.is_file() and "__pycache__" not in file.parts]
    return {file: file.read_text("utf-8", errors="replace") for file in chosen}


def test_no_installation_names_the_other_project():
    other = re.compile(r"(?<![\w/-])fasttrain\[\w|pip install (?:-\S+ )*['\"]?fasttrain(?![\w-])")
    for wrong in ("pip install fasttrain", "pip install 'fasttrain" + "[dali]'", "`fasttrain" + "[dali]`"):
        assert other.search(wrong), wrong
    found = texts()
    assert {ROOT / "README.md", ROOT / "fasttrain" / "extras.py", ROOT / ".ci" / "run"} <= found.keys()
    assert not {
        (str(file.relative_to(ROOT)), match.group())
        for file, text in found.items()
        if file != Path(__file__).resolve()
        for match in other.finditer(text)
    }


def test_extras_that_are_named_exist():
    command = re.compile(rf"(?:{DISTRIBUTION}|pip install -e '\.)\[([\w,-]+)\]")
    named = {extra for text in texts().values() for found in command.findall(text) for extra in found.split(",")}
    assert {"dali", "dali-cuda130", "export", "s3"} <= named <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(
    ("cuda", "wheel"),
    [("13.0", "cuda130"), ("13.2", "cuda130"), ("14.1", "cuda130"), ("12.8", "cuda120"), ("11.8", "cuda120")],
)
def test_dali_is_that_for_torchs_cuda(cuda, wheel):
    (requirement,) = PROJECT["optional-dependencies"][dali_extra(cuda)]
    assert requirement.startswith(f"nvidia-dali-{wheel}>=")
    other = dali_mismatch(11, cuda)
    assert cuda == "11.8" or f"pip uninstall nvidia-dali-cuda110, then {install(dali_extra(cuda))}" in other
    assert dali_mismatch(int(cuda[:2]), cuda) == ""


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ({"url": "file:///opt/fast%20train", "dir_info": {"editable": True}}, "-e '/opt/fast train[s3]'"),
        ({"url": "file:///opt/fasttrain", "dir_info": {}}, "'/opt/fasttrain[s3]'"),
        ({"url": "file:///opt/f.whl", "archive_info": {}}, "'/opt/f.whl[s3]'"),
        ({"url": "https://host/f.whl", "archive_info": {}}, f"'{DISTRIBUTION}[s3]'"),
        (None, f"'{DISTRIBUTION}[s3]'"),
    ],
)
def test_an_extra_is_installed_from_where_fasttrain_came_from(origin, wanted, tmp_path, monkeypatch):
    info = tmp_path / f"{DISTRIBUTION.replace('-', '_')}-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 9\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert install("s3").endswith(f"pip install {wanted}")


def test_in_the_clone_its_path_is_a_dot(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "_origin", lambda: {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.chdir(tmp_path)
    assert install("s3").endswith("pip install -e '.[s3]'")


def test_without_cuda_any_dali_will_do():
    assert dali_extra(None) == "dali" and dali_mismatch(13, None) == dali_mismatch(12, None) == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="here DALI can start")
def test_doctor_says_where_dali_does_not_go_with_torch_or_cannot_start(monkeypatch):
    dali = pytest.importorskip("nvidia.dali")
    assert doctor._dali().present, "without a GPU any will do"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dali, "__cuda_version__", 12986)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = doctor._dali()
    assert not found.present and found.fix.startswith("it is built for CUDA 12, torch for CUDA 13.0: pip uninstall ")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    found = doctor._dali()
    assert not found.present and ": DALI can't start on cuda (" in found.found and found.fix


def test_name_and_version_stand_in_one_place():
    assert PROJECT["name"] == DISTRIBUTION and PROJECT["dynamic"] == ["version"]
    assert f"\nversion: {fasttrain.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_the_conda_recipe_asks_for_what_pyproject_asks_for():
    text = (ROOT / "recipe" / "meta.yaml").read_text("utf-8")
    run = re.search(r"^  run:\n((?:    - .*\n)+)", text, re.MULTILINE)
    assert run is not None
    theirs = {re.sub(r" *#.*| ", "", line.strip("- ")) for line in run[1].splitlines()}
    renamed = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    ours = {"python" + PROJECT["requires-python"]}
    for requirement in PROJECT["dependencies"]:
        name, version = re.match(r"([\w-]+)(>=[\d.]+)", requirement).groups()
        ours.add(renamed.get(name, name) + version)
    assert theirs == ours
    assert f'\n  version: "{fasttrain.__version__}"\n' in text
