"""Ending a run from outside: `fedkim abort` leaves a mark, the driver sees it and ends itself.

The mark lies in the run folder, so it reaches a driver on any machine that the folder is reached
from. The driver ends as after Ctrl-C: clients are let go, what was published is kept.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fedkim_ray.errors import RunAbortedError
from fedkim_ray.run_folder import RunFolder

POLL_S = 2.0
"""Seconds between two looks for the mark."""
WAKE = signal.SIGUSR1
"""Ends the main thread's work. Not SIGINT, which a shell lets its background jobs ignore."""


@contextmanager
def abortable(run: RunFolder, poll_s: float = POLL_S) -> Iterator[None]:
    """End the block, which runs in the main thread, when somebody asks for it from now on.

    Raises:
        RunAbortedError: somebody did.
    """
    run.forget_abort()
    before = signal.signal(WAKE, signal.default_int_handler)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(poll_s):
            with suppress(Exception):  # storage that fails once may answer the next time
                if run.abort_requested():
                    main = threading.main_thread().ident or 0
                    signal.pthread_kill(main, WAKE)  # ends a blocking call, too
                    return

    watcher = threading.Thread(target=watch, name="abort-watch", daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        if not run.abort_requested():
            raise
        run.log({"event": "aborted"})
        raise RunAbortedError(
            f"Run {run.run_id!r} was aborted with `fedkim abort`.",
            "What was published before is whole.",
            f"Go on with `fedkim run --resume --out {run.folder.url}`.",
        ) from None
    finally:
        done.set()
        watcher.join()
        signal.signal(WAKE, before)
