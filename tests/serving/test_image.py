"""The image and the compose file, as far as they can be read without a container engine."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from typer.main import get_command

from fasttrain.cli import app
from tests.test_distribution import PROJECT

ROOT = Path(__file__).parents[2]


def test_the_image_has_extras_that_exist_and_a_user_without_rights():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (extras,) = [line.partition("=")[2] for line in lines if line.startswith("ARG EXTRAS=")]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"]) and "serve" in extras
    assert [line.split()[1] for line in lines if line.startswith("USER ")] == ["fasttrain"]


def test_the_compose_file_starts_what_there_is():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    name, *arguments = services["serve"]["command"]
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, list(arguments))
    assert all(port.startswith("127.0.0.1:") for each in services.values() for port in each["ports"])
    variable = re.search(r"\$\{(\w+):\?", services["serve"]["volumes"][0])
    assert variable and f"{variable[1]}=$PWD" in (ROOT / "docs" / "how-to" / "serve.md").read_text()
