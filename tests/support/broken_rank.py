"""`fasttrain …` one rank of which has NaN in its logits at a given batch.

RANK=… python tests/support/broken_rank.py RANK BATCH train …
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from fasttrain.cli import main
from tests.support.breaking import broken_at

if __name__ == "__main__":
    rank, batch = sys.argv.pop(1), int(sys.argv.pop(1))
    if os.environ["RANK"] == rank:
        with broken_at(batch):
            main()
    main()
