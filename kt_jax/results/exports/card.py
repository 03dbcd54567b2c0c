"""The model card (README.md): what a network is, and how it was trained and evaluated."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import jinja2

from kt_jax.evaluation import verdict
from kt_jax.pretext import words
from kt_jax.results.exports.check import LIMIT, Check
from kt_jax.results.exports.network import Network
from kt_jax.runs import artifacts, files, marks
from kt_jax.runs.artifacts import Artifact

CARD = "README.md"
_SCORES = "scores.json"
_TEMPLATE = Path(__file__).with_name("card.md.j2")


def write(
    directory: Path, network: Network, origin: Artifact[Any], *, to: str, check: Check
) -> None:
    """Writes README.md in the style of Hugging Face's model cards.

    Args:
      directory: the directory of the export.
      network: the network that was exported.
      origin: the artifact with the network. If it lies in a run, the card describes how the run
        trained and evaluated the network.
      to: the format.
      check: the differences between the export and the network in JAX.
    """
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(words=_write_value, share="{:.1%}".format)
    run = _read_run(origin)
    text = environment.from_string(_TEMPLATE.read_text()).render(
        to=to,
        name=origin.directory.name,
        about=network.about,
        architecture=network.about.architecture["name"],
        options={k: v for k, v in network.about.architecture.items() if k != "name"},
        size=network.size,
        layers=network.layers,
        output=list(network.layers)[-1],
        check=check,
        limit=LIMIT,
        version=origin.manifest["versions"]["kt_jax"],
        **run,
    )
    files.write_file(directory / CARD, lambda partial: partial.write_text(text, encoding="utf-8"))


def _read_run(origin: Artifact[Any]) -> dict[str, Any]:
    """Reads the images, stages, probes and leakage from the run that the artifact lies in."""
    found: dict[str, Any] = {"images": {}, "stages": [], "probes": [], "leakage": []}
    run = origin.directory.parent
    if not (run / "config.json").exists():
        return found
    config = files.read_json(run / "config.json")
    found["images"] = config.get("images", {})
    for name in config.get("stages", ()):
        if not marks.is_finished(run / name):
            continue
        manifest = marks.read(run / name / marks.MANIFEST)
        kind = config.get(name, {}).get("kind", "")
        facts = manifest["facts"]
        solved = (facts, *facts.get("others", ())) if "puzzle_accuracy" in facts else ()
        learned = [(words.words_of(each), each) for each in solved]
        found["stages"].append({"name": name, "kind": kind, "facts": facts, "learned": learned})
        if manifest["type"] == artifacts.Scores.__name__ and (run / name / _SCORES).exists():
            scores = files.read_json(run / name / _SCORES)
            found["probes"].extend(_tabulate(name, scores["rows"], origin.directory.name))
            found["leakage"].extend(scores["leakage"])
    return found


def _tabulate(stage: str, rows: list[Mapping[str, Any]], subject: str) -> Iterator[dict[str, Any]]:
    """The scores of a network by layer, and those of its baselines, for each amount of labels."""
    by_amount: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_amount[row.get("labels", "")].append(row)
    for some in by_amount.values():
        values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in some:
            values[row["subject"]][row["layer"]].append(row["value"])
        if subject not in values:
            continue
        random = values.get(f"random:{subject}", {})
        first = next(row for row in some if row["subject"] == subject)
        yield {
            "stage": stage,
            "layers": [
                (layer, _write_share(found), _write_share(random.get(layer, [])))
                for layer, found in values[subject].items()
            ],
            "others": {
                f"{each.subject} ({each.layer})": f"{each.value:.1%}"
                for each in verdict.read_standings(some)
                if each.layer
            },
            "how": first.get("details", first["protocol"]),
            **{name: first[name] for name in ("metric", "protocol", "split", "selection", "n")},
        }


def _write_share(values: list[float]) -> str:
    """The mean over seeds as text, with the standard deviation if there are several."""
    if not values:
        return "not measured"
    spread = f" ± {statistics.stdev(values):.1%}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1%}{spread}"


def _write_value(value: Any) -> str:
    """A value of a config or of facts as text for a table.

    Paths are cut to their last part, because a card may be published.
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_write_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_write_value, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    value = str(value)
    if value.startswith(("/", "~")):
        value = PurePath(value).name
    return value.replace("|", "\\|")
