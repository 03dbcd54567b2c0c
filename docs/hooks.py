"""MkDocs' hooks: pages that are made while the site is built, and links to files outside docs/."""

import logging
import re
from pathlib import Path

import generated
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages (or pictures of pages) of the site too.
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/*.md", "benchmarks/*.svg")
# A link or a picture, up to its target: [words](target.
_LINK = re.compile(r"(\]\()([^)\s]+)")

logging.getLogger("kt_jax").setLevel(logging.ERROR)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are generated, and those that lie elsewhere in the repository."""
    made = {"options.md": generated.describe_options(), "commands.md": generated.show_help()}
    for name, text in made.items():
        files.remove(files.src_uris[name])  # what a reader finds who builds no site
        files.append(File.generated(config, name, content=text))
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page, files: Files, **_: object) -> str:
    """Points links that are right in the repository to the pages of the site."""
    place = page.file.src_uri
    here = ROOT / place if _lies_outside(place) else ROOT / "docs" / place

    def repoint(match: re.Match) -> str:
        target, hash_, anchor = match[2].partition("#")
        if not target or ":" in target or files.get_file_from_path(_join(place, target)):
            return match[0]
        found = (here.parent / target).resolve()
        if not found.exists():
            return match[0]  # mkdocs names it
        inside = found.relative_to(ROOT).as_posix().removeprefix("docs/")
        return f"{match[1]}{'../' * place.count('/')}{inside}{hash_}{anchor}"

    return _LINK.sub(repoint, markdown)


def _lies_outside(place: str) -> bool:
    return any(Path(place).match(pattern) for pattern in OUTSIDE) and (ROOT / place).is_file()


def _join(place: str, target: str) -> str:
    parts = [part for part in Path(place).parent.joinpath(target).parts if part != "."]
    while ".." in parts[1:]:
        at = parts.index("..", 1)
        del parts[at - 1 : at + 1]
    return "/".join(parts)
