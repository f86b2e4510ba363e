"""How a forked process ends that stands for a `fasttrain` of its own."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn


def leave(main: Callable[[], None]) -> NoReturn:
    """Runs `main` and ends as Python ends, but for the seconds in which it would free what the parent imported."""
    code, interrupted = 0, False
    try:
        main()
    except SystemExit as leaving:
        if isinstance(leaving.code, int | None):
            code = leaving.code or 0
        else:
            print(leaving.code, file=sys.stderr)
            code = 1
    except BaseException as error:
        traceback.print_exc()
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = 120
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)
