"""Values that are parsed once: from TOML, a checkpoint, the command line and Python, and saved as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fasttrain import evaluate
from fasttrain.checkpoint.file import load_checkpoint, save_checkpoint
from fasttrain.checkpoint.folder import checkpoint_path
from fasttrain.config.load import load_config, read_toml, resolve
from fasttrain.config.schema import TrainConfig
from fasttrain.config.values import CacheSize, Fold, InvalidValue, ParsedValue, Progressive, RandAugment, SaveEvery
from fasttrain.errors import UserError
from fasttrain.inspection.inspect import inspect
from fasttrain.training.resume import start_of_run
from tests.config.test_config_properties import as_arguments, parsed

WRITTEN: list[tuple[str, Any, ParsedValue]] = [
    ("rand_augment", "n2-m9", RandAugment(2, 9)),
    ("rand_augment", "rand-m7-n3", RandAugment(3, 7)),
    ("progressive", "128:224", Progressive(128, 224)),
    ("fold", "2/5", Fold(2, 5)),
    ("cache_size", "50GB", CacheSize(50 * 10**9)),
    ("cache_size", "1.5 TiB", CacheSize(3 * 2**39)),
    ("cache_size", "50", CacheSize(50 * 10**9)),
    ("save_every", 500, SaveEvery(steps=500)),
    ("save_every", "10 m", SaveEvery(seconds=600)),
    ("save_every", "1.5h", SaveEvery(seconds=5400)),
    ("save_every", "off", SaveEvery()),
]


@pytest.mark.parametrize(("name", "written", "value"), WRITTEN)
def test_a_value_is_saved_as_it_was_written(name: str, written: Any, value: ParsedValue, tmp_path: Path) -> None:
    config = resolve({name: written})
    assert getattr(config, name) == value and str(getattr(config, name)) == str(written)
    assert config.plain()[name] == config.model_dump()[name] == written and type(config.plain()[name]) is type(written)

    toml, checkpoint = tmp_path / "config.toml", checkpoint_path(tmp_path, 1)
    toml.write_text(tomli_w.dumps(config.plain()))
    save_checkpoint(checkpoint, {"step": 1, "config": config.plain()})
    for again in (
        resolve(read_toml(toml)),
        resolve(load_checkpoint(checkpoint)["config"]),
        resolve(parsed(as_arguments({name: written}))),
        TrainConfig.model_validate_json(config.model_dump_json()),
        load_config(config, {}),
    ):
        assert getattr(again, name) == value and again.plain()[name] == written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (RandAugment(2, 9), "n2-m9"),
        (Progressive(128, 224), "128:224"),
        (Fold(2, 5), "2/5"),
        (CacheSize(2**40), "1099511627776B"),
        (SaveEvery(steps=7), "7"),
        (SaveEvery(seconds=600), "10min"),
        (SaveEvery(seconds=90), "90s"),
        (SaveEvery(), "off"),
    ],
)
def test_a_value_made_in_python_has_a_text_that_parses_to_it(value: ParsedValue, text: str) -> None:
    assert str(value) == text and type(value).parse(text) == value
    name = {
        RandAugment: "rand_augment",
        Progressive: "progressive",
        CacheSize: "cache_size",
        SaveEvery: "save_every",
        Fold: "fold",
    }
    config = TrainConfig(**{name[type(value)]: value})
    assert getattr(config, name[type(value)]) == value and resolve(config.plain()) == config


@given(
    st.one_of(
        st.builds(RandAugment, st.integers(1, 4), st.integers(0, 10)),
        st.tuples(st.integers(1, 64), st.integers(1, 64)).map(lambda s: Progressive(min(s) * 32, max(s) * 32)),
        st.builds(CacheSize, st.integers(1, 2**50)),
        st.builds(Fold, st.just(1), st.integers(2, 100)),
        st.builds(SaveEvery, steps=st.integers(1, 2**40)),
        st.builds(SaveEvery, seconds=st.integers(1, 10**6)),
    )
)
def test_text_and_value_round_trip(value: ParsedValue) -> None:
    again = type(value).parse(value.plain())
    assert again == value and hash(again) == hash(value) and again.plain() == value.plain()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandAugment(5, 11), "rand_augment = 'n5-m11' is out of range; the nearest valid value is n4-m10"),
        (lambda: RandAugment.parse("rand-m11-n1"), "rand_augment = 'rand-m11-n1' is out of range"),
        (lambda: Progressive(224, 128), "progressive = '224:128' runs backwards; did you mean 128:224?"),
        (lambda: Fold(6, 5), "fold = '6/5' is out of range; the nearest valid value is 5/5"),
        (lambda: Fold.parse("2 of 5"), "fold = '2 of 5' is invalid; write 2/5"),
        (lambda: CacheSize(0), "cache_size = '0B' is too small"),
        (lambda: SaveEvery(steps=0), "save_every = 0 is out of range: the nearest valid value is 1, or off"),
        (lambda: SaveEvery(steps=1, seconds=60), "save_every takes steps or seconds, not both"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        make()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "given"), [("rand_augment", 3), ("cache_size", 50), ("save_every", 2.5)])
def test_a_value_of_another_type_is_refused_in_one_line(name: str, given: Any) -> None:
    with pytest.raises(UserError, match=rf"^food\.toml: {name} = {given}: input should be a valid") as caught:
        resolve({name: given}, origin="food.toml")
    assert "\n" not in str(caught.value)


def test_commands_without_a_config_refuse_a_bad_cache_size(shard_folder: Path, model_folder: Path) -> None:
    for call in (
        lambda: inspect(shard_folder, cache_size="much", progress=False),
        lambda: evaluate(model_folder, shard_folder, cache_size="much"),
    ):
        with pytest.raises(UserError, match=r"^cache_size = 'much' is invalid; write 50GB"):
            call()


def test_a_checkpoint_of_an_older_version_resumes_without_a_change(tmp_path: Path) -> None:
    """Such checkpoints hold the settings as plain texts and numbers."""
    then = {
        "model": "test_convnext",
        "epochs": 3,
        "rand_augment": "rand-m9-n2",
        "progressive": "128:224",
        "cache_size": "50GB",
        "save_every": "10 m",
        "crop_scale": [0.35, 1.0],
        "out": "runs",
        "data": "shards",
    }
    save_checkpoint(checkpoint_path(tmp_path, 1), {"step": 1, "config": then})
    start = start_of_run(None, {"resume": str(tmp_path)})
    assert start.changed == () and start.config.rand_augment == RandAugment(2, 9)
    assert start.config.progressive == Progressive(128, 224) and start.config.save_every == SaveEvery(seconds=600)
    assert then.items() <= {**start.config.plain(), "out": "runs"}.items()
