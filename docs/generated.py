"""Pages that are made from the code: all options, and the help of all commands."""

import ast
import contextlib
import dataclasses
import inspect
import io
import os
import re
import textwrap
import typing
from typing import Any
from unittest import mock

from kt_jax import commands, models
from kt_jax.data.sources import SOURCES, photographs
from kt_jax.runs import graph, kinds, options

_OPTIONS = """\
# Options

Every option of a config, with its default. This page is made from the dataclasses of the code.
[Configs](configs.md) says how to change an option: `--config.SECTION.OPTION=VALUE` changes one on
the command line.

*Default* is what holds where neither the config nor the command line says otherwise. The configs
that ship set many options: see `WORKDIR/config.json` of a run for the values that it has.

## The run

`config.seed` (0) is the seed of everything. `config.stages` names the stages of the run.

"""

_IMAGES = """
## Images

`config.images` names sets of images. Each has `source`, `size` (the side in pixels to which images
are decoded) and the options of its source. All sources but `photographs` also have `subset`
(`"all"`, `"train"` or `"test"`) and `holdout` (0.2: the share that is held out where nothing says
what is for tests). [Your images](your_images.md) describes the sources.

| source | options |
|---|---|
"""

_BACKBONES = """
## Backbones

Options of the architectures, for `config.pretext.backbone` and `config.student.backbone`.
[Models](models.md) describes them.

| name | options and their defaults |
|---|---|
"""
# A page of the documentation, as docstrings name it.
_PAGE = re.compile(r"docs/(\w+\.md)")


def describe_options() -> str:
    """The page of all options, in Markdown."""
    nested: dict[type, str] = {}
    parts = [_OPTIONS + _rows(graph.Loader, "loader", nested, "config.")]
    parts.append(_IMAGES + "".join(_describe_source(*each) for each in _sources()))
    parts.append("\n## Kinds of stages\n")
    for kind, module in kinds.KINDS.items():
        summary = (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ")
        parts.append(f"\n### {kind}\n\n{summary}\n\n" + _rows(module.Options, "", nested))
    parts.append("\n## Groups of options\n\nSeveral kinds share these.\n")
    done: set[type] = set()
    while left := [cls for cls in nested if cls not in done]:
        for cls in left:
            done.add(cls)
            summary = inspect.getdoc(cls) or ""
            parts.append(f"\n### {_name(cls)}\n\n{summary.partition(chr(10) * 2)[0]}\n\n")
            parts[-1] += _rows(cls, "", nested)
    parts.append(_BACKBONES + "".join(map(_describe_architecture, models._ARCHITECTURES)))
    return "".join(parts)


def show_help() -> str:
    """The page of all commands, in Markdown."""
    lines = [
        "# Commands",
        "",
        "What `--help` of each command prints. [Runs](runs.md#flags) says more of `run`.",
        "",
    ]
    with mock.patch.dict(os.environ, COLUMNS="100"):
        for name in commands.COMMANDS:
            lines += [f"## kt-jax {name}", ""]
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                with contextlib.suppress(SystemExit):
                    commands.main([name, "--help"])
            lines += ["```text", printed.getvalue().strip(), "```", ""]
    return "\n".join(lines)


def field_docs(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, and of those that it extends."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        body = typing.cast(
            ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        )
        for node, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                text = inspect.cleandoc(str(after.value.value)) if is_text else ""
                found[node.target.id] = text or found.get(node.target.id, "")
        # Or all of them in the docstring of the class, "name: words".
        listed = re.split(r"^ *(\w+): ", inspect.getdoc(each) or "", flags=re.MULTILINE)
        found |= {
            name: text
            for name, text in zip(listed[1::2], listed[2::2], strict=True)
            if name in found
        }
    return found


def _rows(cls: Any, section: str, nested: dict[type, str], prefix: str = "") -> str:
    """A table of the fields; dataclasses among them are noted in `nested`."""
    words, hints = field_docs(cls), typing.get_type_hints(cls)
    lines = ["| option | default | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(cls):
        name = f"{prefix}{section}{'.' if section else ''}{field.name}"
        default, wanted = field.default, hints[field.name]
        if dataclasses.is_dataclass(wanted):
            nested.setdefault(wanted, field.name)
            others = _differing(wanted, default)
            shown = f"[{_name(wanted)}](#{_name(wanted).lower().replace(' ', '-')}){others}"
        elif default is dataclasses.MISSING:
            shown = "*must be given*"
        else:
            shown = f"`{_shorten(default)}`"
        described = " ".join(part for part in (_role(field), words.get(field.name, "")) if part)
        if not described and dataclasses.is_dataclass(wanted):
            described = (inspect.getdoc(wanted) or "").partition("\n")[0]
        described = described or f"{options.describe_type(wanted).capitalize()}."
        lines.append(f"| `{name}` | {shown} | {_in_cell(described)} |")
    return "\n".join(lines) + "\n"


def _differing(cls: Any, default: Any) -> str:
    """What a group of options has in place of the defaults of its own table."""
    plain = {field.name: field.default for field in dataclasses.fields(cls)}
    said = {} if default is dataclasses.MISSING else options.to_section(default)
    changed = {name: x for name, x in said.items() if name in plain and x != plain[name]}
    changed = {name: x for name, x in changed.items() if not isinstance(x, dict)}
    return "".join(f", `{name}` `{_shorten(x)}`" for name, x in changed.items())


def _role(field: dataclasses.Field) -> str:
    """What a field is besides an option: an input, a set of images."""
    if "reads" in field.metadata:
        wanted = " or ".join(each.__name__ for each in field.metadata["reads"]) or "any artifact"
        return f"*Input: {wanted}.*"
    return "*A set of images.*" if "images" in field.metadata else ""


def _name(cls: type) -> str:
    return cls.__name__ if cls.__name__ != "Head" else f"Head of {cls.__module__.split('.')[-1]}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text.replace("|", "\\|") if len(text) < 60 else f"{text[:57]}..."


def _in_cell(text: str) -> str:
    return _PAGE.sub(r"[\1](\1)", " ".join(text.split()).replace("|", "\\|"))


def _sources() -> list[tuple[str, Any]]:
    return [("auto", None), *SOURCES.items(), ("photographs", photographs.Views)]


def _describe_source(name: str, cls: Any) -> str:
    if cls is None:
        return f"| `{name}` | `path`; the source is found out from it |\n"
    parameters = inspect.signature(cls).parameters.values()
    shown = [
        f"`{each.name}`" + ("" if each.default is each.empty else f" (`{_shorten(each.default)}`)")
        for each in parameters
        if each.name not in ("size", "entries")
    ]
    return f"| `{name}` | {', '.join(shown)} |\n"


def _describe_architecture(name: str) -> str:
    shown = [
        f"`{key}` (`{_shorten(x)}`)" for key, x in models._ARCHITECTURES[name].defaults.items()
    ]
    return f"| `{name}` | {', '.join(shown)} |\n"
