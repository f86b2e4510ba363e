"""Find the code blocks of the README and the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELL = {"", "bash", "console"}
"""Languages of blocks that hold commands. In a console block only the lines that begin with "$ " are commands."""
MARK = re.compile(r"needs (a GPU|a network|Slurm|Docker|another project's code|a registered model)(;.*)?")
"""The reasons that `<!-- not run: … -->` above a block may give. The text after a semicolon names another test."""

_FENCE = re.compile(
    r"^(?:(?P<above>[^\n]*)\n)?(?P<indent> *)```(?P<language>[\w-]*)(?P<rest>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN = re.compile(r"\s*<!-- not run: (.*) -->")
_SEPARATORS = {"&&", "||", "|", ";", "&", "(", ")", ";;"}
_REDIRECTIONS = {">", ">>", "<"}
_KEYWORDS = {"do", "then", "else", "until", "while", "if", "!", "exec", "env"}


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page.

    `number` counts the page's blocks of the same language from 1. `file` is the block's title, a file name under which
    the reader saves the code, or None. `not_run` is the reason in the mark above the block, or None.
    """

    page: str
    language: str
    number: int
    code: str
    file: str | None
    not_run: str | None

    @property
    def name(self) -> str:
        return f"{self.page}, {self.language or 'shell'} {self.number}"


def blocks_of(text: str, page: str) -> list[Block]:
    """Return the blocks in the Markdown `text` of `page`."""
    found: list[Block] = []
    for fence in _FENCE.finditer(text):
        language = fence["language"]
        mark = _NOT_RUN.fullmatch(fence["above"] or "")
        title = re.search(r'title="([\w.]+)"', fence["rest"])
        number = 1 + sum(each.language == language for each in found)
        code = textwrap.dedent(fence["body"])
        found.append(Block(page, language, number, code, title and title[1], mark and mark[1]))
    return found


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for page in PAGES for block in blocks_of(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())]


def shell_lines(block: Block) -> list[str]:
    """Return the command lines of a block, with continued lines joined."""
    lines = re.sub(r"\\\n", " ", block.code).splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    if loop := re.search(r"^for (\w+) in (\S+)", block.code, re.MULTILINE):  # only the loop's first value is tried
        lines = [line.replace(f"${loop[1]}", loop[2]) for line in lines]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell line, without its keywords, variables and redirections.

    `$(…)` becomes the word X. Raises ValueError if quotes are not closed.
    """
    line = re.sub(r"\$\([^)]*\)", "X", line)
    line = re.sub(r"\d?>&\d", "", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if word in _SEPARATORS:
            if command := _plain(words):
                yield command
            words = []
        elif word in _REDIRECTIONS:
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)


def _plain(words: list[str]) -> list[str]:
    while words and (words[0] in _KEYWORDS or re.match(r"\w+=", words[0])):
        words = words[1:]
    return [] if words[:1] in (["for"], ["done"], ["fi"], ["["]) else words
