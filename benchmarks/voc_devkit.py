"""Writes a zip of images with a table of their classes as a VOC devkit, which `source="voc"` opens.

    python benchmarks/voc_devkit.py voc12_animals_128.zip OUT/VOC2012

labels.csv in the zip has the columns path, split ("train" or "test"), w and h, and one of 0 and 1
for each class of VOC. The devkit gets JPEGImages, Annotations (an object without a box for each
class) and the lists train and test. Images of one class alone are also in OUT/single.csv, with
their class and split, for evaluations of one label an image.
"""

import csv
import io
import pathlib
import sys
import zipfile

from kt_jax.data.sources.voc import CLASSES


def main(source: str, out: str) -> None:
    """Writes the devkit `out` of the zip `source`."""
    root = pathlib.Path(out)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    single = [("path", "label", "split")]
    with zipfile.ZipFile(source) as archive:
        table = io.TextIOWrapper(archive.open("labels.csv"), encoding="utf-8")
        for row in csv.DictReader(table):
            path = pathlib.PurePosixPath(row["path"])
            (root / "JPEGImages" / path.name).write_bytes(archive.read(row["path"]))
            shown = [name for name in CLASSES if row[name] == "1"]
            objects = "".join(f"<object><name>{name}</name></object>" for name in shown)
            if len(shown) == 1:
                single.append((f"JPEGImages/{path.name}", shown[0], row["split"]))
            size = f"<size><width>{row['w']}</width><height>{row['h']}</height></size>"
            text = f"<annotation>{size}{objects}</annotation>"
            (root / "Annotations" / f"{path.stem}.xml").write_text(text, encoding="utf-8")
            lists[row["split"]].append(path.stem)
    with (root / "single.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(single)
    for split, stems in lists.items():
        text = "\n".join(sorted(stems)) + "\n"
        (root / f"ImageSets/Main/{split}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
