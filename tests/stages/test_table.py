"""Tables: figures by seed, the paper's, and claims with a verdict."""

import numpy as np
import pytest
import support

from kt_jax.evaluation import scores
from kt_jax.runs import artifacts, files
from kt_jax.stages import table

LABELS = np.arange(500) % 2


def make_row(subject, layer, right, *, chosen=False, **others):
    guess = np.where(np.arange(500) < right, LABELS, 1 - LABELS)
    return {
        "subject": subject, "layer": layer, "protocol": "linear", "chosen": chosen, "seed": 0,
        "details": "ridge", "split": "half", "selection": "a tenth", "predictions": [guess],
        **scores.accuracy([guess], LABELS), **others,
    }  # fmt: skip


@pytest.fixture
def given(tmp_path):
    """Scores of two seeds of a student, of a random network and of few labels."""
    rows = [
        make_row("student_0", "conv1", 300),
        make_row("student_0", "conv2", 400, chosen=True),
        make_row("student_1", "conv1", 310, chosen=True),
        make_row("student_1", "conv2", 380),
        make_row("random", "conv1", 250, chosen=True),
        make_row("random", "conv2", 240),
        make_row("random", "conv2", 100, chosen=True, labels="10 a class"),
        make_row("random", "conv2", 0, protocol="knn"),
    ]
    scores.write(tmp_path / "probe", rows, LABELS)
    about = artifacts.Scores(("student_0", "student_1", "random"))
    return support.finish(tmp_path / "probe", about)


def make_stage(tmp_path, given, **options):
    chosen = table.Options(
        **{
            "title": "Table 4",
            "scores": ("probe",),
            "rows": {"CC": ("student_0", "student_1"), "Random": "random"},
            "columns": ("conv1", "conv2", "chosen"),
            **options,
        }
    )
    return support.make_stage(tmp_path / "table", chosen, given={"scores": (given,)})


def test_cells_are_means_over_seeds(tmp_path, given):
    stage = make_stage(
        tmp_path,
        given,
        paper={"CC": {"conv1": 18.9}},
        comparable="other data",
        claims={
            "CC > random at conv2": ("CC", "Random", "conv2", 18.1),
            "CC = random at conv1": ("CC", "Random", "conv1", None, 2.0),
        },
    )
    about, _ = table.run(stage)
    assert about == table.plan(stage.options, stage.inputs).about
    assert about == artifacts.Table("Table 4", ("CC", "Random"))
    found = files.read_json(tmp_path / "table" / "table.json")
    first, second = found["rows"]
    assert first["cells"]["conv2"]["value"] == pytest.approx(0.78)
    assert first["cells"]["conv2"]["seeds"] == 2
    low, high = second["cells"]["conv2"]["interval"]
    assert (low + high) / 2 == pytest.approx(0.48)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.48 * 0.52 / 500))
    assert first["cells"]["chosen"]["value"] == pytest.approx((400 + 310) / 1000)
    assert second["cells"]["chosen"]["value"] == pytest.approx(0.5)
    higher, equal = found["claims"]
    assert (higher["verdict"], equal["verdict"]) == ("holds", "refuted")
    assert higher["difference"] == pytest.approx(0.78 - 0.48)
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| CC | 61.0 ± 1.4 | 78.0 ± 2.8 | 71.0 ± 12.7 |" in text
    assert "| *the paper's, not comparable* | 18.9 |  |  |" in text
    assert "| CC > random at conv2 | +18.1 | +30.0 (" in text
    assert "not comparable: other data." in text


def test_amounts_of_labels_are_columns(tmp_path, given):
    stage = make_stage(tmp_path, given, rows={"Random": "random"}, columns=("10 a class",))
    table.run(stage)
    (row,) = files.read_json(tmp_path / "table" / "table.json")["rows"]
    assert row["cells"]["10 a class"]["value"] == pytest.approx(0.2)


def test_facts_and_other_protocols_are_columns(tmp_path, given):
    scores.write(
        tmp_path / "knn", [make_row("random", "conv2", 350, chosen=True, protocol="knn")], LABELS
    )
    knn = support.finish(tmp_path / "knn", artifacts.Scores(("random",)))
    made = tuple(
        support.finish(tmp_path / name, artifacts.Table(name, ()), facts=facts)
        for name, facts in (
            ("solver_0", {"solved": 0.25}),
            ("solver_1", {"solved": 0.75}),
            ("x", {}),
        )
    )
    chosen = table.Options(
        title="Facts",
        scores=("probe", "knn"),
        rows={"two": ("solver_0", "solver_1"), "one": ("random", "x")},
        columns=("solved", "conv2", "kNN", "time"),
        protocols={"kNN": "knn"},
        stages=("solver_0", "solver_1", "x"),
        facts={"solved": "solved", "time": "seconds"},
    )
    stage = support.make_stage(
        tmp_path / "table", chosen, given={"scores": (given, knn), "stages": made}
    )
    table.plan(stage.options, stage.inputs)
    table.run(stage)
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| two | 50.0 ± 35.4 |  |  | 2m02s |" in text
    assert "| one |  | 48.0 | 70.0 | 1m01s |" in text


def test_claims_of_figures_that_are_no_share_of_images_use_resamples(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, 1000)
    values = {"row0": 0.5 + noise, "row1": 0.4 + noise, "row2": 0.495 + rng.normal(0, 0.02, 1000)}
    files.write_table(tmp_path / "voc" / scores.RESAMPLED, values)
    about = {"layer": "all", "protocol": "voc", "details": "", "split": "", "selection": ""}
    rows = [
        {**about, "subject": name, "value": x.mean(), "resampled": row, "predictions": []}
        for name, (row, x) in zip("abc", values.items(), strict=True)
    ]
    scores.write(tmp_path / "voc", rows, None)
    given = support.finish(tmp_path / "voc", artifacts.Scores(("a", "b", "c")))
    claimed = {"a > b": ("a", "b", "all", None), "a > c": ("a", "c", "all", None)}
    stage = make_stage(
        tmp_path, given, rows={x: x for x in "abc"}, columns=("all",), protocol="voc",
        scores=("voc",), claims=claimed,
    )  # fmt: skip
    table.run(stage)
    first, second = files.read_json(tmp_path / "table" / "table.json")["claims"]
    assert first["interval"] == pytest.approx([0.1, 0.1], abs=1e-3)
    assert (first["verdict"], second["verdict"]) == ("holds", "not resolved")
    low, high = second["interval"]
    assert high - low == pytest.approx(2 * 1.96 * 0.02 * 2**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"facts": {"x": "solved"}}, "facts: 'x' is no column: the columns are conv1"),
        ({"protocols": {"y": "knn"}}, "protocols: 'y' is no column: the columns are conv1"),
        ({"rows": {}}, "rows or columns are empty"),
        ({"claims": {"x": ("CC", "Random", "conv1")}}, "claims: 'x' has 3 entries"),
        ({"claims": {"x": ("CC", "None", "conv1", 1.0)}}, "names the row 'None': the rows are CC"),
        (
            {"claims": {"x": ("CC", "Random", "fc", 1.0)}},
            "'fc': the columns of scores are",
        ),
    ],
)
def test_what_makes_no_table_is_refused(tmp_path, given, options, message):
    with pytest.raises(ValueError, match=message):
        make_stage(tmp_path, given, **options)


def test_subjects_that_are_not_there_are_refused(tmp_path, given):
    stage = make_stage(tmp_path, given, rows={"A": "nobody"})
    with pytest.raises(ValueError, match=r"rows: 'A' names 'nobody': the scores are of random, st"):
        table.plan(stage.options, stage.inputs)
    stage = make_stage(tmp_path, given, protocol="few_shot")
    with pytest.raises(ValueError, match="'CC' has no figures of the protocol 'few_shot'"):
        table.run(stage)
