"""Every fenced block of the README and the pages is run or checked, or carries a mark that says what it needs.

Commands of fasttrain and of other Python programs are parsed by those programs' own parsers. TOML, YAML and JSON are
read by the code that reads them in earnest. `test_snippets.py` runs the Python, and `test_commands_run.py` runs
commands. A block that no test can run is marked by a comment in the line above it: `<!-- not run: needs a GPU -->`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from fasttrain.config.load import resolve, tomllib
from tests.docs.blocks import MARK, SHELL, Block, all_blocks, blocks_of, shell_lines, simple_commands
from tests.docs.commands import check, check_keywords, check_mlflow, check_python

BLOCKS = all_blocks()


def _diff(block: Block) -> None:
    added = [line[1:] for line in block.code.splitlines() if line.startswith("+")]
    for line in added:
        for call in re.findall(r"\b(?:fasttrain\.)?Loader\((.*)\)$", line):
            check_keywords("Loader", re.findall(r"(?<![\w.])(\w+)=(?!=)", re.sub(r"\([^()]*\)", "", call)))
    assert added, "a diff that adds nothing"


def _yaml(block: Block) -> None:
    for words in _commands_in(yaml.safe_load(block.code)):
        check(words)


def _commands_in(value: Any) -> list[list[str]]:
    if isinstance(value, dict):
        own = [value["command"]] if isinstance(value.get("command"), list) else []
        return own + [each for inner in value.values() for each in _commands_in(inner)]
    return [each for inner in value for each in _commands_in(inner)] if isinstance(value, list) else []


def check_block(block: Block) -> None:
    """Check a block as far as that can be done without running it. Raises AssertionError or the reader's own error."""
    if block.not_run is not None:
        assert MARK.fullmatch(block.not_run), f"<!-- not run: {block.not_run} -->: say `needs …` as blocks.MARK has it"
        if block.language in SHELL:  # the rest of such a block is checked all the same
            for words in (words for line in shell_lines(block) for words in simple_commands(line)):
                if words[0] in ("fasttrain", "torchrun") and "…" not in words and "train.py" not in words:
                    check(words)
    elif block.language in SHELL:
        lines = shell_lines(block)
        assert lines, "no command: an output alone is a block of ```text"
        for words in (words for line in lines for words in simple_commands(line)):
            check(words)
    elif block.language == "python":
        check_python(block.code)
    elif block.language == "toml":
        resolve(tomllib.loads(block.code), {}, origin=block.name)
    elif block.language == "yaml":
        _yaml(block)
    elif block.language == "json":
        for line in block.code.splitlines():
            json.loads(line)
    elif block.language == "diff":
        _diff(block)
    else:
        assert block.language == "text", f"no test reads blocks of {block.language}: teach tests/docs/test_blocks.py"
        assert not re.search(r"^\$ ", block.code, re.MULTILINE), "a block with commands is one of ```console"


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}))
def test_every_block_is_checked_or_marked(page: str) -> None:
    for block in BLOCKS:
        if block.page == page:
            try:
                check_block(block)
            except Exception as error:
                pytest.fail(f"{block.name}: {error or type(error).__name__}\n{block.code}")


@pytest.mark.slow
def test_torchrun_and_mlflow_take_their_lines() -> None:
    """Parse these with the programs' own parsers, which take seconds to import."""
    from torch.distributed.run import get_args_parser

    found = []
    for block in BLOCKS:
        for line in shell_lines(block) if block.language in SHELL else []:
            for program, *arguments in simple_commands(line):
                if program == "torchrun" and "train.py" not in arguments:
                    found.append(get_args_parser().parse_args(arguments).training_script)
                elif program == "mlflow":
                    found.append(arguments[0])
                    check_mlflow(arguments)
    assert {"fasttrain", "server", "models"} <= set(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nkubectl apply -f job.yaml\n```", "no test runs kubectl"),
        ("```bash\nfasttrain train --learning-rat 1\n```", "no such option: --learning-rat"),
        ("```bash\nfasttrain train --learning-rate 1000\n```", "learning_rate = 1000"),
        ("```bash\nfasttrain evaluate --checkpoint run --batch-size 0\n```", "greater than or equal to 1"),
        ("```console\n$ fasttrain convert photographs --worker 2\nclasses 6\n```", "--worker"),
        ("```\ncat list | fasttrain prdict --checkpoint run x.jpg\n```", "prdict"),
        ("```\ntorchrun --nproc-per-node 2 -m fasttrain train --bach-size 2\n```", "--bach-size"),
        ("```\npip install 'fasttrain-vision" + "[tuning]'\n```", "tuning"),
        ("```\npip install tensorflow\n```", "needs a network"),
        ("```\npython benchmarks/accuracy.py --budget 2\n```", "no --budget"),
        ("```\ntools/setup_all.sh\n```", "setup_all.sh"),
        ("```\nclasses 6\n```", "no test runs classes"),
        ("```python\nfrom fasttrain import trian\n```", "no trian"),
        ('```python\nfrom fasttrain import Loader\nLoader("shards", batchsize=2)\n```', "batchsize"),
        ('```python\nfrom fasttrain import train\ntrain(data="shards", epoch=2)\n```', "epoch"),
        ("```toml\nepoch = 2\n```", "unknown setting 'epoch'"),
        ("```yaml\nspec: {command: [fasttrain, convert, --sorce, /data]}\n```", "--sorce"),
        ("```json\n{'a': 1}\n```", "property name"),
        ('```diff\n+loader = Loader("photographs", crops=2)\n```', "crops"),
        ("```rust\nfn main() {}\n```", "no test reads blocks of rust"),
        ("```text\n$ fasttrain runs\n```", "```console"),
        ("<!-- not run: too lazy -->\n```\nkubectl apply\n```", "too lazy"),
        ("<!-- not run: needs a network -->\n```\naws s3 ls\nfasttrain trian\n```", "trian"),
    ],
)
def test_a_block_that_is_wrong_or_not_known_is_found(text: str, message: str) -> None:
    (block,) = blocks_of(text, "page.md")
    with pytest.raises(Exception) as raised:
        check_block(block)
    assert message.lower() in f"{raised.value} {getattr(raised.value, 'message', '')}".lower()


def test_marked_blocks_and_those_with_a_title_are_found() -> None:
    text = 'a\n\n=== "S3"\n\n    <!-- not run: needs a network -->\n    ```bash\n    aws s3 ls\n    ```\n'
    text += '\n```python title="a.py"\nx = 1\n```\n'
    first, second = blocks_of(text, "page.md")
    assert (first.not_run, first.code, first.language) == ("needs a network", "aws s3 ls\n", "bash")
    assert (second.not_run, second.file, second.name) == (None, "a.py", "page.md, python 1")


def test_shell_code_is_taken_apart() -> None:
    line = "A=1 until fasttrain train --out 'my runs' > log 2>&1; [ $? -ne 75 ]; do cat x | head -1 && done  # why"
    assert list(simple_commands(line)) == [["fasttrain", "train", "--out", "my runs"], ["cat", "x"], ["head", "-1"]]
