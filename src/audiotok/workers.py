"""What every worker process of ours does first."""

import os
import signal
import threading
import time


def live_with(parent: int) -> None:
    """Ties this process to the one that started it, by its id: Ctrl-C is left to that one, and when it has ended, if by
    kill -9, so does this one. Otherwise workers would wait for ever for work that nobody hands out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
