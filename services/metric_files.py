"""The files that workers share their metrics by, with their room on the disk taken beforehand.

Prometheus' client maps a file that is all hole. On a full disk the first touch of a page of it is a signal
(SIGBUS) that ends the worker, not an error. Here a file that finds no room becomes memory: this worker goes
on, and what it counts from then on is seen by nobody else.
"""

import logging
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import mmap_dict, values

SIZE = mmap_dict._INITIAL_MMAP_SIZE
OVERHEAD = 32  # bytes of an entry beside its key, at most: length, padding, value, time

log = logging.getLogger("perennial.service")


class RoomyDict(mmap_dict.MmapedDict):
    """The library's file of metrics, never mapped where the disk has no room for it."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if read_mode or _take_room(filename, SIZE):
            super().__init__(filename, read_mode)
            return
        self._f: Any = Path(os.devnull).open("a+b")  # noqa: SIM115 - what the library closes at the end
        self._fname, self._capacity, self._used = filename, SIZE, 8
        self._positions: dict[str, int] = {}
        self._m: Any = mmap.mmap(-1, SIZE)
        mmap_dict._pack_integer(self._m, 0, self._used)

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + OVERHEAD > self._capacity:
            self._grow(2 * self._capacity)
        super()._init_value(key)

    def _grow(self, size: int) -> None:
        if self._f.name != os.devnull and _take_room(self._fname, size):
            grown = mmap.mmap(self._f.fileno(), size)
        else:
            grown = mmap.mmap(-1, size)
            grown[: self._used] = self._m[: self._used]
            self._f.close()
            self._f = Path(os.devnull).open("a+b")  # noqa: SIM115 - as above
        self._m, self._capacity = grown, size


def take_room_for_metrics() -> None:
    """Have the library use files with room, from the next one on, where the system can give it."""
    if hasattr(os, "posix_fallocate"):
        values.MmapedDict = RoomyDict


def _take_room(filename: str, size: int) -> bool:
    """Return whether a file has that many bytes on the disk now; one that got none is gone again."""
    path = Path(filename)
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(before, size))
    except OSError as error:
        log.warning("%s: no room for %d bytes (%s): what is counted here stays here", path, size, error)
        with suppress(OSError):
            os.truncate(path, before) if before else path.unlink()
        return False
    return True
