"""Asserts what the tables of tables.py:tiny hold: `python tests/table_floors.py WORKDIR`."""

import json
import sys
from pathlib import Path

TITLES = (
    *(f"Table {number}: " for number in range(1, 11)),
    "Table 7, continued: ",
    "Pretext tasks: students",
    "Pretext tasks: the teachers",
    "The clusters of CC + AlexNet",
)
VERDICTS = {"holds", "refuted", "not resolved"}
# HOG with colours and pixels learn nothing: their figures are those of 24 fixed images.
LEAST = {"HOG with colours": 0.7, "pixels": 0.5}
CLAIMS = 45


def main(workdir: str) -> None:
    """Prints how much there is, or stops with what is missing."""
    tables = json.loads((Path(workdir) / "report" / "tables.json").read_text())
    missing = [x for x in TITLES if not any(each["title"].startswith(x) for each in tables)]
    assert not missing, f"there is no table {missing[0]!r}"
    for table in tables:
        for row in table["rows"]:
            assert row["cells"], f"{table['title']}: {row['name']} has no figure"
            for column, cell in row["cells"].items():
                assert cell["text"], (row, column)
                assert column == "time" or 0 <= cell["value"] <= 1, (row, column)
        for claim in table["claims"]:
            low, high = claim["interval"]
            assert low <= claim["difference"] <= high, claim
            assert claim["verdict"] in VERDICTS, claim
    table_4 = next(each for each in tables if each["title"].startswith("Table 4: "))
    chosen = {row["name"]: row["cells"]["chosen"]["value"] for row in table_4["rows"]}
    for name, least in LEAST.items():
        assert chosen[name] >= least, f"{name}: {chosen[name]:.3f}, at least {least} expected"
    claims = sum(len(each["claims"]) for each in tables)
    assert claims >= CLAIMS, f"{claims} claims, at least {CLAIMS} expected"
    rows = sum(len(each["rows"]) for each in tables)
    print(f"{len(tables)} tables, {rows} rows, {claims} claims with a verdict")


if __name__ == "__main__":
    main(sys.argv[1])
