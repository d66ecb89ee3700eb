"""Entry point of the training process."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

WATCH_SECONDS = 1.0
# torch imports this at its first optimiser, which would make the first round wait.
AHEAD = ("torch._dynamo",)


def die_with(parent: int) -> None:
    """End this process when its parent has gone, even in the middle of training.

    A thread looks, because PR_SET_PDEATHSIG follows the parent's *thread*, and FLARE's come and go.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def volunteer_for_oom() -> None:
    """Ask the kernel to take this process first when memory runs out (Linux; elsewhere nothing)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main(ahead: Sequence[str] = AHEAD) -> None:
    """Serve the socket that ``FD`` names for the process ``PARENT``."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    volunteer_for_oom()
    # After the watch has begun: this imports torch, which takes seconds.
    from polyclinic.worker.serving import Serving

    with Connection(descriptor) as connection:
        Serving(connection, ahead).run()


if __name__ == "__main__":
    main()
