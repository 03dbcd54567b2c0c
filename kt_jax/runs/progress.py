"""How progress is written in a line."""


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
