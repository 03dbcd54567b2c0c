"""The versions of what computes: packages, the commit of kt_jax, and how to install the rest."""

import functools
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("kt_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SECONDS = 10.0  # for git on a slow disk


def find_versions() -> dict[str, str]:
    """The versions of kt_jax and of the packages that decide its results, by name."""
    return {name: metadata.version(name) for name in _PACKAGES}


@functools.cache
def find_commit() -> str:
    """The git commit of kt_jax: 12 hexadecimal digits, with "-dirty" if tracked files differ.

    It is known in a checkout, and after `pip install git+https://...`. Otherwise it is "".
    """
    commit = _read_origin().get("vcs_info", {}).get("commit_id", "")
    if commit:
        return str(commit[:12])
    here = Path(__file__)
    try:
        # An installation inside somebody's repository has a commit, but not one of kt_jax.
        _ask_git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _ask_git(
            here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def install_extra(name: str) -> str:
    """The command that adds an extra to this installation, such as "torch", for messages."""
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").exists():
        return f"pip install -e '{checkout}[{name}]'"
    origin = _read_origin()
    vcs = origin.get("vcs_info", {}).get("vcs")
    source = f"{vcs}+{origin['url']}" if vcs else origin.get("url", "")
    return f"pip install 'kt_jax[{name}]{f' @ {source}' if source else ''}'"


def _read_origin() -> dict[str, Any]:
    """Where pip took kt_jax from: PEP 610's url and vcs_info. Empty for a package index."""
    given = metadata.distribution("kt_jax").read_text("direct_url.json")
    return dict(json.loads(given)) if given else {}


def _ask_git(directory: Path, *words: str) -> str:
    asked = ["git", "-C", str(directory), *words]
    return subprocess.run(
        asked, capture_output=True, text=True, check=True, timeout=_SECONDS
    ).stdout.strip()
