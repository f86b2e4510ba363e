"""Who takes part in the contest, with which settings. Every peer gets the best of what its authors advise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contender:
    """A script in this folder, and the options of its job.

    needs: the package that it can't do without. epochs: it is told how many; else it follows the budget, or needs
    none. reason: why it is left out everywhere.
    """

    script: str
    needs: str
    options: dict[str, Any] = field(default_factory=dict)
    epochs: bool = True
    reason: str = ""

    @property
    def ours(self) -> bool:
        return self.script == "ours.py"


def _timm(*arguments: str) -> Contender:
    return Contender("timm_script.py", "timm", {"arguments": arguments})


CONTENDERS = {
    "fasttrain --minutes": Contender("ours.py", "fasttrain", {"minutes": 1}, epochs=False),
    "fasttrain --recipe fast": Contender("ours.py", "fasttrain", {"recipe": "fast"}),
    "fasttrain --recipe accurate": Contender("ours.py", "fasttrain", {"recipe": "accurate"}),
    "fasttrain --head-epochs": Contender("ours.py", "fasttrain", {"recipe": "fast", "head_epochs": 5}),
    # Settings for a data set of one's own: a tenth of the rate from scratch, 0.1 * batch * 0.016 / 256, with RMSpropTF
    # (github.com/huggingface/pytorch-image-models/issues/25).
    "timm train.py, its author's advice": _timm(
        *("--opt", "rmsproptf", "--opt-eps", "0.001", "--lr", "4e-4", "--weight-decay", "1e-5"),
        *("--scale", "0.35", "1", "--color-jitter", "0"),
    ),
    # The optimizer and rate that fine-tuning scripts take most, with the same crops as everyone else.
    "timm train.py, AdamW": _timm(
        *("--opt", "adamw", "--lr", "1e-3", "--weight-decay", "0.05", "--scale", "0.35", "1", "--color-jitter", "0"),
    ),
    "fastai fine_tune": Contender("fastai_fine_tune.py", "fastai"),
    "Ultralytics classify": Contender("ultralytics_classify.py", "ultralytics"),
    "PyTorch loop": Contender("plain_loop.py", "torchvision", {"learning_rate": 1e-3}),
    "LogisticRegression": Contender("logistic_regression.py", "sklearn", epochs=False),
    "AutoGluon": Contender(
        "",
        "autogluon.multimodal",
        reason="could take the backbone from a local folder, but pins timm below 1.0.7 and another PyTorch, so that it "
        "needs an environment of its own, and has not been tried",
    ),
}
"""Each contender by its name in the tables."""
