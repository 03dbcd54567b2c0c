"""Files that stay open."""

import os
from typing import Any


class Descriptor:
    """The descriptor of an open file, for reads at offsets from any number of threads.

    Forked processes share it. If it is pickled to another process, that opens the file again.
    """

    def __init__(self, path: str | os.PathLike, flags: int = os.O_RDONLY) -> None:
        self._opened = path, flags
        self.number = os.open(path, flags, 0o644)

    def __reduce__(self) -> tuple[Any, ...]:
        return Descriptor, self._opened

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
