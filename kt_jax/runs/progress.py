"""How progress is written in a line."""

import logging


def log_to_console() -> None:
    """Shows our progress, and of the libraries' chatter only what is wrong."""
    # force: libraries that were imported may have set up handlers of their own.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("kt_jax").setLevel(logging.INFO)


def format_seconds(seconds: int | float) -> str:
    """Hours, minutes and seconds as a person writes them.

    >>> format_seconds(3725)
    '1h02m'
    >>> format_seconds(65)
    '1m05s'
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s"


def eta(seconds: float, done: int, total: int) -> str:
    """How long the rest takes at the mean speed of what is done.

    >>> eta(60.0, done=20, total=30)
    'ETA 0m30s'
    """
    return f"ETA {format_seconds(seconds / max(done, 1) * (total - done))}"
