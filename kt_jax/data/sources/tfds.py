"""A TensorFlow data set, read without TensorFlow."""

from typing import Any

from kt_jax.data.sources.base import Source, make_entries


class Tfds(Source):
    """One split of a data set that was prepared as ArrayRecord; keys are name/split/number."""

    def __init__(self, name: str, split: str, data_dir: str = "") -> None:
        import tensorflow_datasets as tfds

        skip: Any = {"image": tfds.decode.SkipDecoding()}
        try:
            records: Any = tfds.data_source(
                name, split=split, data_dir=data_dir or None, download=False, decoders=skip
            )
        except (AssertionError, NotImplementedError, ValueError) as error:
            where = f" --data_dir={data_dir}" if data_dir else ""
            raise ValueError(
                f"TFDS data set {name!r}, split {split!r}, is not prepared as ArrayRecord in "
                f"{data_dir or 'the default data_dir'}: {error}. Prepare it once with: "
                f"tfds build {name} --file_format=array_record{where}"
            ) from error
        self._records: Any = records
        info = records.dataset_info
        if "image" not in info.features:
            raise ValueError(
                f"TFDS data set {name!r} has no feature 'image', only {list(info.features)}"
            )
        count = len(records)
        self.identity = f"tfds:{info.full_name}:{split}:{count}:{data_dir}"
        self.name, self.refused = f"TFDS {info.full_name}, {split}", []
        keys = [f"{name}/{split}/{row:07d}" for row in range(count)]
        self.entries = make_entries(keys, [0] * count, [0] * count)
        if "label" in info.features:
            self.class_names = tuple(info.features["label"].names)

    def read(self, row: int) -> bytes:
        """Returns the bytes of an image file."""
        return bytes(self._records[row]["image"])

    def read_labelled(self, row: int) -> tuple[bytes, str | None]:
        """Returns the bytes and the class: a record is read whole to learn it."""
        record = self._records[row]
        label = self.class_names[int(record["label"])] if self.class_names else None
        return bytes(record["image"]), label
