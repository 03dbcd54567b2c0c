"""The figures in README and on the page of results are those of recorded runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import results

from kt_jax.evaluation import scores
from kt_jax.runs import artifacts

ROOT = Path(__file__).parent.parent


def test_pages_show_the_records():
    """Repeat `python benchmarks/results.py pages` if this fails."""
    shown = set()
    for page in results.PAGES:
        text = page.read_text()
        assert results.fill(text) == text
        shown |= {name for block in results.BLOCK.finditer(text) for name in block[2].split()[1:]}
    assert shown == {path.stem for path in results.RECORDS.glob("*.json")}


def test_a_wrong_figure_is_replaced():
    page = ROOT / "docs/results.md"
    text = page.read_text()
    wrong = re.sub(r"\*\*95\.8\*\*", "**99.9**", text, count=1)
    assert wrong != text
    assert results.fill(wrong) == text


@pytest.fixture
def run(tmp_path):
    """A finished run: a student that is right on three images of four, as are pixels."""
    (tmp_path / "config.json").write_text(
        json.dumps({"seed": 3, "stages": ["student", "probe"], "student": {}})
    )
    labels = np.array([0, 1, 0, 1])
    rows = [
        {"subject": subject, "role": role, "layer": layer, "protocol": "linear", "chosen": True,
         "seed": 0, "held_out": 0.5, "predictions": [found], **scores.accuracy([found], labels)}
        for subject, role, layer, found in (
            ("student", "network", "conv5", np.array([0, 1, 0, 0])),
            ("pixels", "baseline", "pixels", np.array([0, 0, 0, 1])),
        )
    ]  # fmt: skip
    finish(tmp_path / "student", {"puzzle_accuracy": 0.5, "chance": 0.25})
    (tmp_path / "probe").mkdir()
    scores.write(tmp_path / "probe", rows, labels)
    finish(tmp_path / "probe", {})
    return tmp_path


def finish(directory, facts):
    directory.mkdir(exist_ok=True)
    about = artifacts.Scores(subjects=())
    artifacts.finish(directory, about, {}, section={}, facts=facts, seconds=2.0)


def test_a_record_has_the_figures_of_a_run(run):
    found = results.record(run, "make it")
    assert [(x["subject"], x["value"]) for x in found["networks"]] == [
        ("student", 0.75),
        ("pixels", 0.75),
    ]
    (lead,) = found["differences"]
    assert (lead["subject"], lead["difference"]) == ("pixels", 0.0)
    assert found["seconds"] == {"student": 2.0, "probe": 2.0}
    page = "\n".join(results.write_networks(found))
    assert "| student (conv5) | **75.0** |" in page
    assert "solves 50.0 % of its held-out examples (chance 25.0 %)" in page
    assert "`make it`: seed 3, 0m04s for all stages" in page


def test_a_record_has_the_tables_of_a_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 0, "stages": ["table_4"]}))
    (tmp_path / "table_4").mkdir()
    cells = {"conv5": {"value": 0.5, "text": "50.0"}}
    written = {
        "title": "Table 4: layers",
        "columns": ["conv5"],
        "rows": [{"name": "CC", "cells": cells, "paper": {}}],
        "claims": [
            {"name": "CC > random weights", "paper": paper, "difference": 0.02,
             "interval": [0.01, 0.03], "verdict": verdict}
            for paper, verdict in ((4.2, "holds"), (None, "holds"), (1.0, "refuted"))
        ],
        "protocol": "linear",
        "details": "ridge",
        "split": "test",
        "comparable": "",
    }  # fmt: skip
    (tmp_path / "table_4/table.json").write_text(json.dumps(written))
    about = artifacts.Table(title="Table 4: layers", rows=("CC",))
    artifacts.finish(tmp_path / "table_4", about, {}, section={}, facts={}, seconds=2.0)
    found = results.record(tmp_path, "make it")
    page = "\n".join(results.write_tables(found))
    assert "## Table 4: layers" in page
    assert "| CC | 50.0 |" in page
    assert "The tables above: `make it`: seed 0, 0m02s" in page
    claims = list(results.write_claims(found))
    assert claims[2:4] == [
        "| 4 | CC > random weights | +4.2 | +2.0 (+1.0 to +3.0) | **holds** |",
        "| 4 | CC > random weights |  | +2.0 (+1.0 to +3.0) | **holds** |",
    ]
    (said,) = results.write_verdicts(found)
    assert said == "Verdicts on 3 claims: 2 hold, 1 refuted, 0 not resolved."


def test_an_unfinished_run_has_no_record(run):
    (run / "probe/manifest.json").unlink()
    with pytest.raises(SystemExit, match="probe is not finished: repeat the command"):
        results.record(run, "make it")
