"""Format the result of `inspect` as text for the terminal, in at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fasttrain.inspection.findings import DuplicatePair, DuplicatesFound, Inspection, SampleName, Spread
from fasttrain.inspection.labels import LabelIssues
from fasttrain.shards.format import REJECTED
from fasttrain.text import counted

CLASSES_SHOWN = 30
LISTED = 10
_HOW = ("photos", "stored", "broken", "ignored")


def inspection_summary(found: Inspection) -> RenderableType:
    """Return the inspection as text. Broken samples come last, so that they stay visible in a terminal."""
    return Group(*_parts(found))


def _parts(found: Inspection) -> Iterator[RenderableType]:
    yield _facts(found)
    yield Text()
    yield _splits(found)
    yield from _classes(found)
    if found.duplicates is not None:
        yield from _duplicates(found.duplicates)
    yield from _wrong(found)


def _facts(found: Inspection) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("shards", Text(f"{found.shards:,} in {found.location}, {_size(found.shard_bytes)}"))
    if found.beton_bytes:
        facts.add_row("FFCV's files", _size(found.beton_bytes))
    facts.add_row("made from", Text(found.source))
    stored = [f"{how} {count:,}" for how, count in found.counts.items() if how not in _HOW]
    facts.add_row("stored", ", ".join(stored))
    facts.add_row("format", _format(found))
    if (each := found.cardinality) is not None:
        span = f"{each.mean:.2f} classes a photograph, {each.min:,} to {each.max:,}"
        facts.add_row("multi-label", f"{span}; {counted(each.none, 'photograph')} without a class")
    if found.width and found.height and found.length:
        facts.add_row("", Text("minimum / median / maximum", style="dim"))
        facts.add_row("width", f"{_spread(found.width)} px")
        facts.add_row("height", f"{_spread(found.height)} px")
        facts.add_row("bytes", f"{_spread(found.length, 1000)} kB per photograph")
    broken, ignored = found.counts.get("broken", 0), found.counts.get("ignored", 0)
    if broken or ignored:
        facts.add_row("left out", f"by convert: {broken:,} broken, {counted(ignored, 'other file')}, see {REJECTED}")
        for reason, count in list(found.rejected.items())[:LISTED]:
            facts.add_row("", Text(f"{count:,} x {reason}"))
    return facts


def _format(found: Inspection) -> str:
    if found.raw:
        return f"raw pixels, longest side at most {found.settings.get('max_size')} px"
    kinds = [f"{name} {count:,}" for name, count in found.sampling.items()]
    if found.progressive:
        kinds.append(f"progressive {found.progressive:,}")
    return f"JPEG, cut: {found.settings.get('cut', 'none')}; {', '.join(kinds)}"


def _splits(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("split", style="dim")
    for name in ("photographs", "classes", "smallest class", "largest class", "size"):
        table.add_column(name, justify="right")
    for split, counts in found.splits.items():
        if total := found.split_samples[split]:
            present = sum(count > 0 for count in counts.values())
            few, many = min(counts.values()), max(counts.values())
            table.add_row(split, f"{total:,}", f"{present:,}", f"{few:,}", f"{many:,}", _size(found.split_bytes[split]))
    return table


def _classes(found: Inspection) -> Iterator[RenderableType]:
    splits = [split for split, count in found.split_samples.items() if count]
    by_class = {name: tuple(found.splits[split][name] for split in splits) for name in found.classes}
    yield Text()
    if len(set(by_class.values())) == 1:
        each = ", ".join(f"{count:,} {split}" for split, count in zip(splits, by_class[found.classes[0]], strict=True))
        yield Text.assemble((f"{len(by_class):,} classes", "bold"), f", each with {each}")
        return
    names = list(by_class)
    if len(names) > CLASSES_SHOWN:
        by_size = sorted(names, key=lambda name: sum(by_class[name]))
        names = by_size[: LISTED // 2] + by_size[-LISTED // 2 :]
        yield Text(f"the smallest and the largest of {len(by_class):,} classes (--json lists all)", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("class", no_wrap=True, overflow="ellipsis", max_width=44)
    for split in splits:
        table.add_column(split, justify="right")
    for name in names:
        table.add_row(Text(name), *(f"{count:,}" for count in by_class[name]))
    yield table


def _duplicates(found: DuplicatesFound) -> Iterator[RenderableType]:
    yield Text()
    rule = f"perceptual hashes at most {found.distance} of 64 bits apart"
    if not found.pairs:
        yield Text.assemble(("duplicates: none", "bold green"), f", {rule}")
        return
    title = Text.assemble((f"duplicates: {counted(found.total, 'pair')}", "bold"), f", {rule}")
    title.append(f"\n  {found.across:,} across splits", "bold red" if found.across else "green")
    twins = [f"{count:,} of {split}" for split, count in found.leaked.items() if count]
    if twins:
        title.append(f": {' and '.join(twins)} have a duplicate in an earlier split")
    if found.relabelled:
        title.append(f"\n  {found.relabelled:,} in different classes", "bold yellow")
    yield title
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("bits", justify="right")
    table.add_column("photograph", overflow="fold", ratio=1)
    table.add_column("its duplicate", overflow="fold", ratio=1)
    for pair in found.pairs[:LISTED]:
        table.add_row(_apart(pair), _named(pair.first, pair), _named(pair.second, pair))
    yield table
    if found.total > LISTED:
        yield Text(f"and {found.total - LISTED:,} more (--json lists them, --sheet FILE draws them)", style="dim")


def _apart(pair: DuplicatePair) -> str:
    return "same" if pair.identical else str(pair.distance)


def _named(sample: SampleName, pair: DuplicatePair) -> Text:
    text = Text.assemble((sample.split, "bold red" if pair.across else "dim"), f" {sample.key}")
    # A key usually begins with its class. Name the class if the two differ and the key does not show it.
    if pair.relabelled and not sample.key.startswith(f"{sample.class_name}/"):
        text.append(f" ({sample.class_name})", "yellow")
    return text


def _wrong(found: Inspection) -> Iterator[RenderableType]:
    yield Text()
    count = len(found.problems) + len(found.broken)
    if not count:
        result = (
            "every checksum is right and every photograph decodes" if found.verified else "every photograph decodes"
        )
        if found.decoded:
            yield Text.assemble(("✓ ", "green"), f"{result} ({found.seconds:,.1f} s)")
        else:
            yield Text("only the headers were read; --verify compares checksums and decodes photographs", style="dim")
        return
    for problem in found.problems:
        yield Text.assemble(("✗ ", "red"), problem)
    for each in found.broken if found.verified else found.broken[:LISTED]:
        yield Text.assemble(("✗ ", "red"), f"{each.shard} ({each.sample.key}): {each.reason}")
    if len(found.broken) > LISTED and not found.verified:
        yield Text(f"and {len(found.broken) - LISTED:,} more broken (--verify lists all)", style="dim")


def _spread(spread: Spread, unit: int = 1) -> str:
    return " / ".join(f"{value / unit:,.0f}" for value in (spread.min, spread.median, spread.max))


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 10**9 else f"{count / 1e6:,.1f} MB"


def labels_summary(found: LabelIssues) -> RenderableType:
    """Return the number of doubtful labels, and a table of the surest."""
    share = len(found.issues) / found.photographs if found.photographs else 0.0
    title = f"doubtful labels: {len(found.issues):,} of {counted(found.photographs, 'photograph')} ({share:.1%})"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if found.photographs < found.stored:
        left = found.stored - found.photographs
        parts.append(Text(f"without a prediction, as the model was trained on them: {left:,} others", style="yellow"))
    if found.issues:
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        table.add_column("score", justify="right", header_style="bold")
        for name in ("given", "suggested", "file"):
            table.add_column(name, header_style="bold", overflow="ellipsis", no_wrap=True)
        for each in found.issues[: 2 * LISTED]:
            table.add_row(f"{each.score:.3f}", Text(each.given), Text(each.suggested), Text(each.file))
        parts.append(table)
    return Group(*parts)
