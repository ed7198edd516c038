"""Processes that must not outlive the one that wanted them."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Let this process end at once when its parent does, even by kill -9; for an `initializer`.

    A worker of a ProcessPoolExecutor waits for work on a pipe that it holds itself, so it would
    wait for ever, and its fork server with it.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
