"""`fasttrain …` that draws no figures, which take two thirds of so short a run.

python tests/reliability/without_figures.py train …
"""

from __future__ import annotations

from fasttrain.cli import main
from fasttrain.commands import finish

if __name__ == "__main__":
    finish._write_pictures = lambda *arguments: None
    main()
