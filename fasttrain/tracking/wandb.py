"""Track runs in Weights & Biases: on its server, or offline in the run's folder, for `wandb sync`."""

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
    """Delivers a run to Weights & Biases, to the W&B run whose id is the record's UUID.

    A resumed run sends all its epochs; the server ignores those that it has. WANDB_MODE decides whether the run is
    online. Without that variable it is online if there is an API key and the server answers, otherwise offline. An
    offline run writes all epochs into a new W&B folder, and then removes the folders of earlier processes.
    """

    title = "W&B"
    needs = ("wandb",)

    def open(self) -> None:
        # Flush every second instead of every 15, so that a killed run leaves its last epoch on the disk.
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
            self._run = self._init("offline", f"{self.record.uuid}-offline")  # for W&B the other id is now in use
        if why is not None:
            self.report(f"W&B is offline ({why}); to upload the run later: {self.place()}")

    def write(self, entries: Sequence[Entry]) -> None:
        # In the order of steps, because W&B rejects a step before its last one.
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
            self._run.log(dict(metrics), step=step, commit=True)  # without commit it would wait for the next step
        else:  # W&B has the step: a resumed run repeats it, or these are the run's final metrics
            self._run.summary.update(dict(metrics))


def _has_key(settings: Any) -> bool:
    from requests.utils import get_netrc_auth

    return bool(settings.api_key or os.environ.get("WANDB_API_KEY") or get_netrc_auth(settings.base_url))


def _answers(url: str) -> bool:
    """Return whether the server accepts a connection, because W&B itself would try for half a minute.

    Return True without trying if the system has a proxy.
    """
    place = urlsplit(url)
    if urllib.request.getproxies():
        return True
    try:
        socket.create_connection((place.hostname or "", place.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _plain(text: str) -> str | int | float | bool:
    """Return the number or bool that a setting's text stands for, so that W&B can sort and filter by it."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
