"""Weights & Biases: a run on its server, or in the run's folder for `wandb sync`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from fasttrain.tracking.mirror import Mirror, shorter_path
from fasttrain.tracking.record import Entry
from fasttrain.tracking.sync import reason

_INIT_TIMEOUT = 30  # seconds


class Wandb(Mirror):
    """Continues the run with the record's UUID. The server keeps a step that it has, and takes those it lacks.

    Without WANDB_MODE the run is online where there is an API key and the server answers, else offline. An offline run
    writes all epochs into a new folder of W&B's, and then removes those of earlier processes.
    """

    title = "W&B"
    needs = ("wandb",)

    def open(self) -> None:
        # Every second, in place of every 15: a killed run then leaves its last epoch on the disk.
        os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "1")
        import wandb

        own = wandb.setup(wandb.Settings(silent=True)).settings
        mode = os.environ.get("WANDB_MODE", "online")
        why = None
        if mode == "online" and not _has_key(own):
            mode, why = "offline", "no API key: run wandb login, or set WANDB_API_KEY"
        elif mode == "online" and not _answers(own.base_url):
            mode, why = "offline", f"{own.base_url} does not answer"
        self._earlier = list(self.record.folder.glob(f"wandb/offline-run-*-{self.record.uuid}*"))
        try:
            self._run = self._init(mode, self.record.uuid)
        except wandb.errors.CommError as error:
            why = f"{own.base_url} does not answer: {reason(error)}"
            self._run = self._init("offline", f"{self.record.uuid}-offline")  # W&B takes the first id for in use
        if why is not None:
            self.report(f"W&B is offline ({why}); later: {self.place()}")

    def write(self, entries: Sequence[Entry]) -> None:
        # Earlier steps first: W&B takes none that lies behind the last.
        for kind, value in sorted(entries, key=lambda entry: entry.value.get("step", 0)):
            if kind == "params":
                self._run.config.update({name: _plain(each) for name, each in value.items()}, allow_val_change=True)
            elif kind == "tags":
                self._run.config.update({"tags": dict(value)}, allow_val_change=True)
            elif kind == "metrics":
                self._log(value["metrics"], value["step"])
            elif kind == "artifact":
                folder = self.record.folder.resolve()
                self._run.save(str(folder / value["name"]), base_path=str(folder), policy="now")
        while self._earlier:
            shutil.rmtree(self._earlier.pop(), ignore_errors=True)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=int(status != "FINISHED"))

    def place(self) -> str:
        return str(self._run.url or f"wandb sync --id {self.record.uuid} {shorter_path(Path(self._run.dir).parent)}")

    def _init(self, mode: str, run_id: str) -> Any:
        import wandb

        record = self.record
        return wandb.init(
            mode=cast(Any, mode),
            id=run_id,
            resume="allow" if mode == "online" else None,
            project=os.environ.get("WANDB_PROJECT") or record.experiment,
            name=record.tags.get("mlflow.runName", record.run_name),
            group=Path(record.tags["study"]).name if "study" in record.tags else None,
            dir=str(record.folder.resolve()),
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=_INIT_TIMEOUT, reinit="create_new", disable_code=True
            ),
        )

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        if step >= self._run.step:
            self._run.log(dict(metrics), step=step, commit=True)  # else it is kept back until the next step
        else:  # the step is there: what a resumed run had, or figures of the run's end
            self._run.summary.update(dict(metrics))


def _has_key(settings: Any) -> bool:
    from requests.utils import get_netrc_auth

    return bool(settings.api_key or os.environ.get("WANDB_API_KEY") or get_netrc_auth(settings.base_url))


def _answers(url: str) -> bool:
    """Return whether the server takes a connection: W&B itself tries for half a minute. A proxy is not asked."""
    place = urlsplit(url)
    if urllib.request.getproxies():
        return True
    try:
        socket.create_connection((place.hostname or "", place.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _plain(text: str) -> str | int | float | bool:
    """Return the number or truth value that a setting's text stands for, by which W&B sorts and filters."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
