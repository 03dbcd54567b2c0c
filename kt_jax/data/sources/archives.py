"""The base of zips and tars: refuses entries, and makes keys."""

from collections.abc import Iterable
from typing import TypeVar

from kt_jax.data.decode import why_too_large
from kt_jax.data.layout import why_unsplit
from kt_jax.data.sources.names import NOT_UTF8, is_safe, is_utf8, tidy_packed
from kt_jax.data.sources.source import PathLike, Source, existing, to_choose

_Member = TypeVar("_Member")


class Archive(Source):
    """The image files in an archive.

    Keys are the paths that unpacking would give, for archives of any tool. If all images are in one
    top-level folder, this folder is the root.
    """

    def __init__(self, path: PathLike, kind: str) -> None:
        super().__init__()
        self.path = existing(path).absolute()
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder, not a {kind}: {to_choose('folder')}")
        self.identity, self.name = f"{kind}:{self.path}", self.path.name

    def choose(self, members: Iterable[tuple[str, int, str | None, _Member]]) -> dict[str, _Member]:
        """Maps sorted keys to the images; counts or refuses the other members.

        Args:
          members: tuples of the name, the size in bytes, the reason why it cannot be read or
            None, and the value to return.
        """
        found: dict[str, _Member] = {}
        members = list(members)
        hidden = _hidden_root([tidy_packed(name) for name, *_ in members])
        for name, size, why_unreadable, member in members:
            key = tidy_packed(name)
            if not self.admits(key.removeprefix(hidden), key):
                continue
            if reason := why_refused(name, key in found, size) or why_unreadable:
                # Show an unsafe name as it is written.
                self.refuse(key if is_safe(name) else name, reason)
            else:
                found[key] = member
        tops = {key.split("/")[0] if "/" in key else "" for key in found}
        prefix = f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""
        refused, self.refused = self.refused, []
        for each in refused:
            key = each.key.removeprefix(prefix) if is_safe(each.key) else each.key
            self.refuse(key, each.reason)
        self.refused.sort(key=lambda each: each.key)
        # Keys do not include this folder, as it is their root.
        self.unsplit = why_unsplit([prefix], self.name) if prefix else ""
        return {key.removeprefix(prefix): found[key] for key in sorted(found)}


def _hidden_root(keys: list[str]) -> str:
    """Returns the top-level folder of all entries, with a slash, if it is hidden; else "".

    It hides nothing, as a folder that the user names. Other hidden entries may lie beside it: tools
    of macOS add some.
    """
    tops = {key.partition("/")[0] for key in keys}
    folders = {key.partition("/")[0] for key in keys if "/" in key} - {"__MACOSX"}
    top = min(folders, default="")
    others = tops - folders - {"__MACOSX"}
    hidden = all(each.startswith(".") for each in (top, *others)) and len(folders) == 1
    return f"{top}/" if hidden else ""


def why_refused(name: str, known: bool, size: int) -> str | None:
    """Returns why an entry is refused, or None. `known`: an earlier entry has the same name."""
    if not is_safe(name):
        return "an unsafe name: absolute, or with '..' in it"
    if not is_utf8(name):
        return NOT_UTF8
    return "a second entry of the same name" if known else why_too_large(size)
