"""The main program of one rank of `train --gpus`. `fasttrain.launch` starts it in a new process."""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from fasttrain.cli.streams import make_stdout_optional, open_closed_streams, write_by_line
from fasttrain.cores import set_up_openmp
from fasttrain.errors import InternalError, Stopped, one_line
from fasttrain.machine import terminate_self

_TIME_TO_STOP_S = 600.0  # for the last step and its checkpoint


class _Starter:
    """The connection to the starter, the process that started this rank. If it is lost, this rank stops by SIGTERM."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._connection = Connection(descriptor)
        self._replies: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.work = self._connection.recv_bytes()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, value: Any) -> Any:
        """Send `value` to the starter and return its answer. If the starter raises an error for it, raise the same."""
        self._connection.send_bytes(pickle.dumps(("ask", value)))
        kind, reply = self._replies.get()
        if kind == "raise":
            raise reply
        return reply

    def tell(self, kind: str, value: Any) -> None:
        """Report the end of the work to the starter. `kind`: "result" or "error". `value`: the result or the error."""
        self._connection.send_bytes(pickle.dumps((kind, value)))

    def _listen(self) -> None:
        try:
            while True:
                self._replies.put(pickle.loads(self._connection.recv_bytes()))
        except (EOFError, OSError):
            self._replies.put(("raise", Stopped("the process that started this one has ended")))
            terminate_self()
            time.sleep(_TIME_TO_STOP_S)
            os._exit(Stopped.exit_code)


def main() -> None:
    """Do the work that the starter has sent, report its result or error, and exit."""
    set_up_openmp()
    open_closed_streams()
    write_by_line()
    make_stdout_optional()
    if not os.environ.get("FASTTRAIN_DEBUG"):
        sys.unraisablehook = lambda _: None
    starter = _Starter(int(sys.argv.pop()))
    try:
        starter.tell("result", pickle.loads(starter.work)(starter.ask))
    except (Exception, KeyboardInterrupt) as error:
        with suppress(OSError):  # the starter is gone
            starter.tell("error", _sendable(error))
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", InternalError.exit_code))


def _sendable(error: BaseException) -> tuple[BaseException, str]:
    """Return an error that can be pickled, and the text of the traceback of `error`.

    This is `error` itself or, if it can't be pickled, an InternalError with the same message.
    """
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return InternalError(f"{type(error).__name__}: {one_line(error)}"), trace
    return error, trace
