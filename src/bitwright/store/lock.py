"""One run in a folder at a time.

The lock is on the folder itself and is the system's: it ends with the process that holds it, however that ends, so
there is nothing to clean up after a kill. Where a file system has no locks, none is held.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HAS_NONE = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class BusyError(ValueError):
    """Another run is at work in this folder."""


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep all other runs out of a folder, which is made if there is none.

    Raises BusyError where one is in it, ValueError for a file in its place.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file, not a folder; give another output folder")
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{folder}: another run is at work here; wait for it to end, or give another output folder"
            ) from error
        except OSError as error:
            if error.errno not in _HAS_NONE:
                raise
        yield
    finally:
        os.close(held)
