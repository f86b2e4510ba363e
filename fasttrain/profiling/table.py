"""Format a profile as text for the terminal, in 80 columns: the phases, the rates, and the diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fasttrain.text import counted

if TYPE_CHECKING:
    from fasttrain.profiling.result import Profile

LABELS = {
    "data": "waiting for data",
    "copy": "copy to device",
    "augment": "augment, normalize",
    "forward": "forward, loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "logging": "logging",
}
"""The label of each phase for people, in the order of a step."""


def profile_table(profile: Profile) -> RenderableType:
    """Return the profile as text for the terminal: the phases, the rates and the diagnosis."""
    measured = profile.measured
    together = measured.together
    phases = Table(box=None, padding=(0, 2), pad_edge=False, header_style="bold")
    phases.add_column("phase")
    for name in ("median ms", "mean ms", "share"):
        phases.add_column(name, justify="right")
    for name, label in LABELS.items():
        phase = together.phases[name]
        phases.add_row(label, f"{phase.median * 1e3:,.2f}", f"{phase.mean * 1e3:,.2f}", f"{phase.share:.1%}")
    phases.add_row("total", "", f"{sum(phase.mean for phase in together.phases.values()) * 1e3:,.2f}", "", style="bold")
    rates = Table(box=None, padding=(0, 2), pad_edge=False, show_header=False)
    rates.add_column()
    rates.add_column(justify="right")
    rates.add_row("loader alone", f"{measured.loader_rate:,.0f} img/s")
    rates.add_row("step alone", f"{measured.step_alone.rate:,.0f} img/s")
    if measured.amp_rate is not None:
        rates.add_row("step alone, bf16", f"{measured.amp_rate:,.0f} img/s")
    rates.add_row("together", f"{together.rate:,.0f} img/s", style="bold")
    if measured.copy_rate is not None:
        rates.add_row("copies alone", f"{measured.copy_rate:,.0f} img/s")
    sentence = profile.diagnosis.sentence
    title = Text(
        f"{counted(together.steps, 'step')} with {profile.batch_size} of the train split's "
        f"{counted(profile.photographs, 'photograph')}, {profile.loader}, {profile.device}"
    )
    return Group(
        title, Text(), phases, Text(), rates, Text(), Text(sentence[0].upper() + sentence[1:], style="bold green")
    )
