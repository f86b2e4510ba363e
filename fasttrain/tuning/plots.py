"""Write Optuna's plots of a study as PNG files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrain.report.figure_file import write_figure

if TYPE_CHECKING:
    import optuna

_SIDES = {"history": (8, 4.5), "epochs": (8, 4.5), "parallel": (9, 4.5), "importances": (8, 3.5), "slices": (11, 4)}


def write_plots(study: optuna.Study, out: Path) -> list[Path]:
    """Write the plots that are possible with the trials so far to the folder `out`, as PNG files. Return their paths.

    A complete trial is needed for `history.png` and `epochs.png`, and several for `parallel.png`, `slices.png` and
    `importances.png`.
    """
    import optuna

    states = optuna.trial.TrialState
    complete = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
    if not complete:
        return []
    with _drawing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns in each plot that this backend is experimental
        from optuna.visualization import matplotlib as plots

        kinds: dict[str, Callable[[], Any]] = {
            "history": lambda: plots.plot_optimization_history(study, target_name="val/top1"),
            "epochs": lambda: _by_epoch(plots.plot_intermediate_values(study)),
        }
        if len(complete) > 1:
            kinds["parallel"] = lambda: plots.plot_parallel_coordinate(study, target_name="val/top1")
            kinds["slices"] = lambda: plots.plot_slice(study, target_name="val/top1")
            if len({trial.value for trial in complete}) > 1:
                kinds["importances"] = lambda: plots.plot_param_importances(study, target_name="val/top1")
        return [_write(name, plot(), out / f"{name}.png") for name, plot in kinds.items()]


def _by_epoch(axes: Any) -> Any:
    from matplotlib.ticker import MaxNLocator

    axes.set(title="Trials by epoch", xlabel="epoch", ylabel="val/top1 of the epoch kept so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


@contextmanager
def _drawing() -> Iterator[None]:
    # Optuna draws with pyplot, which may show figures in a notebook or a window.
    import matplotlib
    from matplotlib import pyplot

    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    try:
        with pyplot.style.context("default"):
            yield
    finally:
        pyplot.switch_backend(before)


def _write(name: str, drawn: Any, path: Path) -> Path:
    import numpy as np
    from matplotlib import pyplot

    figure = np.ravel(drawn)[0].figure
    figure.set_size_inches(_SIDES[name])
    try:
        write_figure(path, figure, bbox_inches="tight")
    finally:
        pyplot.close(figure)
    return path
