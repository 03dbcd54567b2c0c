"""The stages of a config as a graph: the kind, options and inputs of each stage."""

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from kt_jax.runs import kinds, options
from kt_jax.runs.artifacts import Backbone, Report

# The keys of a config that are not stages.
_GENERAL = ("seed", "stages", "images", "loader")
_RANDOM = "random:"
# Other names in a workdir, and the name of a baseline of the probes.
_RESERVED = ("compilations", "config.json", "pixels")


@dataclass(frozen=True)
class Input:
    """An input of a stage: another stage, or the path of a finished artifact."""

    text: str
    """The text in the config."""
    stage: str = ""
    path: Path | None = None
    is_random: bool = False
    """Whether the network gets new random weights (`random:NAME`)."""


@dataclass(frozen=True)
class Node:
    """A stage of a config."""

    name: str
    kind: str
    module: ModuleType
    """The module of its kind, with Options, GIVES, plan and run."""
    options: Any
    inputs: Mapping[str, tuple[Input, ...]]
    """Inputs by option."""
    images: Mapping[str, str]
    """Names of sets of images by option."""

    @property
    def origin(self) -> str:
        """Its section of the config, for error messages."""
        return f"config.{self.name}"

    @property
    def stages(self) -> list[str]:
        """The names of the stages that it reads."""
        return [x.stage for inputs in self.inputs.values() for x in inputs if x.stage]

    @property
    def section(self) -> dict[str, Any]:
        """Its section of the config, with every default filled in."""
        return {"kind": self.kind, **options.to_section(self.options)}


Graph = Mapping[str, Node]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How images are read. No option here changes results."""

    workers: int = 0
    """The number of processes that decode images; 0: threads, enough for up to a dozen cores."""
    cache: str = "auto"
    """Where decoded images are cached; see `data.open_images`."""
    max_unreadable: float = 0.01
    """The run stops if a larger share of the images becomes unreadable."""

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        if self.workers < 0:
            raise ValueError(f"workers = {self.workers}: give 0 or more")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"max_unreadable = {self.max_unreadable}: give a share from 0 to 1")


def fill(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with every default filled in; None for a required option that is missing.

    Raises:
      ValueError: a section without a kind or with an unknown kind, `stages` that is not a list, or
        sections `images` and `loader` that are not dicts of options.
    """
    filled: dict[str, Any] = {"seed": 0, **config}
    names = [name for name in config if name not in _GENERAL]
    filled["stages"] = config.get("stages", tuple(names))
    if not isinstance(filled["stages"], list | tuple):
        raise ValueError(f"config.stages = {filled['stages']!r}: give a list of names")
    filled["stages"] = tuple(filled["stages"])
    for section in ("images", "loader"):
        filled[section] = config.get(section, {})
        if not isinstance(filled[section], Mapping):
            raise ValueError(f"config.{section} = {filled[section]!r}: give its options by name")
    for name, source in filled["images"].items():
        if not isinstance(source, Mapping) or not {"source", "size"} <= source.keys():
            raise ValueError(
                f"config.images.{name} = {source!r}: give its source and size (in pixels), and "
                "the options of that source"
            )
    filled["images"] = dict(filled["images"])
    filled["loader"] = options.fill(Loader, filled["loader"])
    for name in names:
        kind = _find_kind(name, config[name])
        filled[name] = options.fill(kinds.KINDS[kind].Options, config[name])
    return filled


def make_loader(config: Mapping[str, Any]) -> Loader:
    """The section `loader` of a filled config. Raises ValueError as `options.make`."""
    return options.make(Loader, config["loader"], "config.loader")


def takes_any_option(path: Sequence[str]) -> bool:
    """Whether any key may stand below `path` in a config.

    This is so for a set of images (its source checks the options) and for a backbone (its
    architecture checks them).
    """
    return len(path) == 2 and (path[0] == "images" or path[1] == "backbone")


def forget(section: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options to reset in a filled section, as when overrides choose another pretext task."""
    module = kinds.KINDS.get(str(section.get("kind")))
    return module.forget(section, overrides) if hasattr(module, "forget") else {}


def make_graph(config: Mapping[str, Any]) -> Graph:
    """The stages of a filled config, sorted so that each comes after its inputs.

    Raises:
      ValueError: a section without a kind or with an unknown kind, unknown options or options of
        the wrong type, inputs or sets of images that do not exist, inputs of the wrong type, or a
        cycle of stages.
    """
    names = [name for name in config if name not in _GENERAL]
    options.convert(int, config["seed"], "config.seed")
    make_loader(config)
    for name in names:
        if name in _RESERVED or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
            raise ValueError(
                f"config.{name}: a stage cannot have this name, because it names a directory: use "
                "letters, digits, '_', '-' and '.'"
            )
    check_names("config.stages", config["stages"], names)
    nodes = {name: _make_node(name, config, names) for name in names}
    for node in nodes.values():
        _check_types(node, nodes)
    ordered: dict[str, Node] = {}
    # Keep the order of the config as far as the inputs allow.
    for name in (*config["stages"], *names):
        _add(name, nodes, ordered, ())
    return ordered


def check_names(origin: str, chosen: Collection[str], names: Collection[str]) -> None:
    """Checks that `chosen` are names of stages. `origin` says where they come from.

    Raises:
      ValueError: a name is not that of a stage.
    """
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ValueError(f"{origin} names {unknown[0]!r}: the stages are {', '.join(names)}.")


def with_readers(graph: Graph, names: Collection[str]) -> list[str]:
    """The named stages and all that read them, directly or not, in the order of the graph."""
    found: list[str] = []
    for name, node in graph.items():
        if name in names or any(needed in found for needed in node.stages):
            found.append(name)
    return found


def with_inputs(graph: Graph, names: Collection[str]) -> list[str]:
    """The named stages and all that they read, directly or not, in the order of the graph."""
    found: set[str] = set()
    for name in reversed(list(graph)):
        if name in names or name in found:
            found |= {name, *graph[name].stages}
    return [name for name in graph if name in found]


def _find_kind(name: str, section: Any) -> str:
    """The kind of a stage, from its section."""
    if not isinstance(section, Mapping) or "kind" not in section:
        raise ValueError(
            f"config.{name} is no stage: give its kind, one of {', '.join(kinds.KINDS)}"
        )
    kind = section["kind"]
    if not isinstance(kind, str) or kind not in kinds.KINDS:
        raise ValueError(f"config.{name}.kind = {kind!r}: choose one of {', '.join(kinds.KINDS)}")
    return kind


def _make_node(name: str, config: Mapping[str, Any], names: Collection[str]) -> Node:
    kind = _find_kind(name, config[name])
    module = kinds.KINDS[kind]
    section = {key: value for key, value in config[name].items() if key != "kind"}
    made = options.make(module.Options, section, f"config.{name}")
    images = {}
    for option in options.fields_of(module.Options, "images"):
        if not getattr(made, option):
            continue  # an optional set that is not given
        images[option] = getattr(made, option)
        if images[option] not in config["images"]:
            raise ValueError(
                f"config.{name}.{option} = {images[option]!r}: the sets of config.images are "
                f"{', '.join(config['images'])}"
            )
    inputs = {}
    for option in options.fields_of(module.Options, "reads"):
        value = getattr(made, option)
        # A report that names no artifacts shows all other stages.
        texts = (value,) if isinstance(value, str) else value
        if value == "" and options.is_optional(module.Options, option):
            texts = ()
        if option == "artifacts" and not texts:
            texts = tuple(
                each
                for each in config["stages"]
                if each != name and kinds.KINDS[_find_kind(each, config[each])].GIVES is not Report
            )
        inputs[option] = tuple(
            _make_input(text, f"config.{name}.{option}", names) for text in texts
        )
    return Node(name, kind, module, made, inputs, images)


def _make_input(text: str, origin: str, names: Collection[str]) -> Input:
    name = text.removeprefix(_RANDOM)
    is_random = name != text
    if name in names:
        return Input(text, stage=name, is_random=is_random)
    path = Path(os.path.abspath(os.path.expanduser(name)))
    if name and ("/" in name or path.is_dir()):
        return Input(text, path=path, is_random=is_random)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    raise ValueError(
        f"{origin} = {text!r} is neither a stage ({', '.join(near or names)}) nor the directory of "
        "a finished artifact"
    )


def _check_types(node: Node, nodes: Graph) -> None:
    for option, wanted in options.fields_of(node.module.Options, "reads").items():
        for each in node.inputs[option]:
            if each.stage:
                given = nodes[each.stage].module.GIVES
                check_type(f"{node.origin}.{option}", each.text, given, wanted, each.is_random)


def check_type(
    origin: str, text: str, given: type, wanted: tuple[type, ...], is_random: bool
) -> None:
    """Checks that an input has one of the types that its reader accepts.

    Args:
      origin: the option for error messages, such as "config.clusters.features".
      text: the input in the config.
      given: the type of its artifact.
      wanted: the types that are accepted; empty: all.
      is_random: whether the config asks for new random weights.

    Raises:
      ValueError: the input has another type, or random weights are asked of it in vain.
    """
    if wanted and given not in wanted:
        raise ValueError(
            f"{origin} = {text!r} gives {given.__name__}, but "
            f"{' or '.join(each.__name__ for each in wanted)} is needed"
        )
    if is_random and given is not Backbone:
        raise ValueError(f"{origin} = {text!r}: only a Backbone has weights that can be new")


def _add(name: str, nodes: Graph, ordered: dict[str, Node], path: tuple[str, ...]) -> None:
    """Adds a stage to `ordered`, after its inputs. `path` holds its readers, to find cycles."""
    if name in path:
        circle = " -> ".join((*path[path.index(name) :], name))
        raise ValueError(f"stages read each other: {circle}")
    if name not in ordered:
        for needed in nodes[name].stages:
            _add(needed, nodes, ordered, (*path, name))
        ordered[name] = nodes[name]
