"""MkDocs events: the generated pages, the tables of benchmarks/README.md, drawings put into the page.

Pages hold `<!-- reference: cli -->` where the reference belongs, so that a link to them also resolves without a build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.fasttrain")
_FILLED = {
    "cli": reference.cli_page,
    "settings": reference.settings_page,
    "loader": reference.loader_page,
    "python": reference.python_page,
}
_MARK = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)
_TABLE = re.compile(r"^\[[^\]]+\]\((\w[\w-]*)\.md\)$", re.MULTILINE)
_FLAG = re.compile(r"`(?:([a-z-]+) )?--(?!no-)([a-z-]+)[^`]*`")
_FETCHED = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="?https?:[^>]*>|<link\b[^>]*\brel="?(?!canonical)[^>]*https?:[^>]*>'
)
_DRAWING = re.compile(r'<p><img alt="([^"]*)" src="[^"]*drawings/([\w-]+\.svg)"\s*/?></p>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the modules' pages to the reference's part of the navigation."""
    modules = [{name: f"reference/modules/{name}.md"} for name in reference.module_pages()]
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"].append({"Modules": modules})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes the pages that no file in docs/ holds: the modules', and the two that lie in the repository's root."""
    for name, text in reference.module_pages().items():
        files.append(File.generated(config, f"reference/modules/{name}.md", content=text))
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        text = (reference.ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills the marks of the reference, and puts the benchmarks' tables where the page links to them."""
    if page.parent is None:  # alone in its tab: a list of one page is no navigation
        page.meta.setdefault("hide", ["navigation"])
    markdown = _MARK.sub(lambda mark: _FILLED[mark[1]](), markdown)
    if page.file.src_uri.startswith("migration/"):
        markdown = _with_links(markdown)
    if page.file.src_uri == "benchmarks/README.md":
        markdown = _with_tables(markdown, Path(config.docs_dir) / "benchmarks")
    return markdown


def _with_links(markdown: str) -> str:
    """Each flag in a table's column "fasttrain" leads to the reference."""
    names = {command.path for command in reference.commands()}
    lines, column = [], -1

    def linked(flag: re.Match[str]) -> str:
        command = flag[1] or "train"
        return f"[{flag[0]}](../reference/cli.md#{command}-{flag[2]})" if command in names else flag[0]

    for line in markdown.splitlines():
        cells = line.split(" | ")
        if not line.startswith("| "):
            column = -1
        elif column < 0:
            column = next((number for number, cell in enumerate(cells) if cell.strip("| ") == "fasttrain"), -1)
        elif column < len(cells):
            cells[column] = _FLAG.sub(linked, cells[column])
            line = " | ".join(cells)
        lines.append(line)
    return "\n".join(lines)


def _with_tables(markdown: str, folder: Path) -> str:
    named = set(re.findall(r"\((\w[\w-]*\.(?:md|png|svg))\)", markdown)) | {"README.md"}
    markdown = _TABLE.sub(lambda link: (folder / f"{link[1]}.md").read_text("utf-8"), markdown)
    others = [path for path in sorted(folder.iterdir()) if path.suffix in (".md", ".png", ".svg")]
    more = ["## More tables and pictures", ""] if any(path.name not in named for path in others) else []
    for path in others:
        if path.name not in named:
            title = path.stem.replace("_", " ")
            body = path.read_text("utf-8") if path.suffix == ".md" else f"![{title}]({path.name})"
            more += [f"### {title[0].upper()}{title[1:]}", "", re.sub(r"^# .*\n", "", body), ""]
    return "\n".join([markdown, "", *more])


def on_page_content(html: str, **_: Any) -> str:
    """Drawings become part of the page, where they take the colours of its scheme, not of the system's."""

    def inlined(image: re.Match[str]) -> str:
        svg = (reference.ROOT / "docs" / "drawings" / image[2]).read_text("utf-8")
        return f'<figure class="drawing" role="img" aria-label="{image[1]}">{svg}</figure>'

    return _DRAWING.sub(inlined, html)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Warns, which --strict makes an error, of what a reader's browser would fetch from elsewhere."""
    if found := _FETCHED.search(output):
        log.warning("%s needs the network: %s", page.file.src_uri, found[0][:200])
    return output
