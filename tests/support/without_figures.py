"""`fasttrain …` that draws no figures and writes no report, which take half of a short run's time.

python tests/support/without_figures.py train …
"""

from __future__ import annotations

from fasttrain.cli import main
from fasttrain.commands import finish

if __name__ == "__main__":
    finish._write_pictures = lambda *arguments: None
    main()
