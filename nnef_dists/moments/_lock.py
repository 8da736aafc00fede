"""One writer at a time."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such lock; there it is up to the caller.
    fcntl = None


@contextlib.contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the system lets go of it whenever the process ends.

    Args:
        folder: A folder that exists.

    Raises:
        ValueError: If another process holds it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Expected {folder} to be free; another process is writing it"
            ) from None
        except OSError as error:
            # Some network file systems cannot lock.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(handle)
