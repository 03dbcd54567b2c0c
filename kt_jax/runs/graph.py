"""The stages of a config as a graph: the kind and options of each, and which read which."""

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

# The keys of a config that are no stages.
_GENERAL = ("seed", "stages", "images", "loader")
_RANDOM = "random:"
# What else lies in a workdir, and what is probed besides networks.
_RESERVED = ("compilations", "config.json", "pixels")


@dataclass(frozen=True)
class Input:
    """What a stage reads: another stage, or a finished artifact of another run."""

    text: str
    """As the config says it."""
    stage: str = ""
    path: Path | None = None
    is_random: bool = False
    """Whether new weights take the place of those of that network."""


@dataclass(frozen=True)
class Node:
    """A stage of a config."""

    name: str
    kind: str
    module: ModuleType
    """The file of its kind: Options, GIVES, plan and run."""
    options: Any
    inputs: Mapping[str, tuple[Input, ...]]
    """By option."""
    images: Mapping[str, str]
    """Sets of images by option."""

    @property
    def origin(self) -> str:
        """Where its options stand."""
        return f"config.{self.name}"

    @property
    def stages(self) -> list[str]:
        """The stages that it reads."""
        return [x.stage for inputs in self.inputs.values() for x in inputs if x.stage]

    @property
    def section(self) -> dict[str, Any]:
        """Its section of a config that leaves nothing to defaults."""
        return {"kind": self.kind, **options.to_section(self.options)}


Graph = Mapping[str, Node]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How images are read, which changes no result."""

    workers: int = 0
    """Processes that decode; with 0 threads do, which is enough up to a dozen cores."""
    cache: str = "auto"
    """Where decoded images are kept; see `data.open_images`."""
    max_unreadable: float = 0.01
    """The share of images that may turn unreadable before a run stops."""

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.workers < 0:
            raise ValueError(f"workers = {self.workers}: give 0 or more")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"max_unreadable = {self.max_unreadable}: give a share from 0 to 1")


def fill(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every default written out; None stands for what must be given and is not.

    Raises:
      ValueError: a section without a kind, or with an unknown one; names that are no lists, or
        images that are no options.
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
    """How a filled config wants images to be read.

    Raises:
      ValueError: as `options.make`.
    """
    return options.make(Loader, config["loader"], "config.loader")


def takes_any_option(path: Sequence[str]) -> bool:
    """Whether the keys below `path` in a config are options that only their owner knows.

    Those of a set of images belong to its source, those of a backbone to its architecture.
    """
    return len(path) == 2 and (path[0] == "images" or path[1] == "backbone")


def forget(section: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What overrides take away from a filled section: options of another choice, such as a task."""
    module = kinds.KINDS.get(str(section.get("kind")))
    return module.forget(section, overrides) if hasattr(module, "forget") else {}


def make_graph(config: Mapping[str, Any]) -> Graph:
    """The stages of a config, each after those that it reads.

    Raises:
      ValueError: a section without a kind, or with an unknown one; options that its kind does not
        have or that are of another type; an input or a set of images that does not exist, or is of
        another type; stages that read each other.
    """
    names = [name for name in config if name not in _GENERAL]
    options.convert(int, config["seed"], "config.seed")
    make_loader(config)
    for name in names:
        if name in _RESERVED or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
            raise ValueError(
                f"config.{name}: a stage cannot be called so: its name is a directory's; letters, "
                "digits, '_', '-' and '.' will do"
            )
    check_names("config.stages", config["stages"], names)
    nodes = {name: _make_node(name, config, names) for name in names}
    for node in nodes.values():
        _check_types(node, nodes)
    ordered: dict[str, Node] = {}
    # In the order of the config, as far as the inputs allow.
    for name in (*config["stages"], *names):
        _add(name, nodes, ordered, ())
    return ordered


def check_names(origin: str, chosen: Collection[str], names: Collection[str]) -> None:
    """Refuses what is no stage.

    Raises:
      ValueError: saying where the name comes from.
    """
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ValueError(f"{origin} names {unknown[0]!r}: the stages are {', '.join(names)}.")


def with_readers(graph: Graph, names: Collection[str]) -> list[str]:
    """The stages, and all that read them, in order."""
    found: list[str] = []
    for name, node in graph.items():
        if name in names or any(needed in found for needed in node.stages):
            found.append(name)
    return found


def with_inputs(graph: Graph, names: Collection[str]) -> list[str]:
    """The stages, and all that they read, in order."""
    found: set[str] = set()
    for name in reversed(list(graph)):
        if name in names or name in found:
            found |= {name, *graph[name].stages}
    return [name for name in graph if name in found]


def _find_kind(name: str, section: Any) -> str:
    """The kind that a section says."""
    if not isinstance(section, Mapping) or "kind" not in section:
        raise ValueError(
            f"config.{name} is no stage: a section says its kind, one of {', '.join(kinds.KINDS)}"
        )
    kind = section["kind"]
    if kind not in kinds.KINDS:
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
            continue  # a set that need not be
        images[option] = getattr(made, option)
        if images[option] not in config["images"]:
            raise ValueError(
                f"config.{name}.{option} = {images[option]!r}: the sets of config.images are "
                f"{', '.join(config['images'])}"
            )
    inputs = {}
    for option in options.fields_of(module.Options, "reads"):
        value = getattr(made, option)
        # A report of nothing in particular shows all other stages.
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
    """Refuses an input of another type than its reader takes.

    Raises:
      ValueError: with both types.
    """
    if wanted and given not in wanted:
        raise ValueError(
            f"{origin} = {text!r} gives {given.__name__}, but "
            f"{' or '.join(each.__name__ for each in wanted)} is needed"
        )
    if is_random and given is not Backbone:
        raise ValueError(f"{origin} = {text!r}: only a Backbone has weights that can be new")


def _add(name: str, nodes: Graph, ordered: dict[str, Node], path: tuple[str, ...]) -> None:
    """Adds a stage behind those that it reads."""
    if name in path:
        circle = " -> ".join((*path[path.index(name) :], name))
        raise ValueError(f"stages read each other: {circle}")
    if name not in ordered:
        for needed in nodes[name].stages:
            _add(needed, nodes, ordered, (*path, name))
        ordered[name] = nodes[name]
