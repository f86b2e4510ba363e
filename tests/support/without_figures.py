"""`fasttrain …` that draws no figures and writes no report, which take half of a short run's time.

python tests/support/without_figures.py train …
"""

from __future__ import annotations

from in_ranks import first  # beside this program

from fasttrain.cli import main
from fasttrain.commands import finish


def draw_none() -> None:
    finish._write_pictures = lambda *arguments: None


if __name__ == "__main__":
    first(draw_none)
    main()
