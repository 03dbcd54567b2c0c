"""Names of splits: which are known, what they make of folders and tables, and what is said."""

import logging
import shlex
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kt_jax.data import __main__ as command
from kt_jax.data import open_images
from kt_jax.data.layout import classes_of, in_subset, read_layout, why_unsplit
from kt_jax.data.splits import choose_splits, is_extra, read_name

CLASSES = ("cats", "dogs")


def below(*folders):
    """Two images of each class in folders, whose {} are the classes."""
    keys = {f"{folder.format(c)}/{c}{i}.png" for folder in folders for c in CLASSES for i in "01"}
    return sorted(keys)


def by_folder(keys, values):
    return {key.rpartition("/")[0]: value for key, value in zip(keys, values, strict=True)}


def save(root, keys):
    for number, key in enumerate(keys):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(root / key)
    return root


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAINING trn train2017 train_2 training_set TrainImages imagesTrain "
            "trainset train.X1 X_train train_v2 trainval TrainVal trainval2012 train_val "
            "train-00000-of-00010 train-part-3 Train_Data training-images trainingset",
        ),
        ("test", "test tests Testing TST test1 test_set testset TestImages test-imgs eval holdout"),
        ("validation", "val Valid VALIDATION val2012 valset valid_set val.X ValSplit dev dev_set"),
    ],
)
def test_names_that_say_a_split_and_no_more(split, names):
    for name in names.split():
        said = read_name(name)
        assert said is not None, name
        assert (said.split, said.rest) == (split, ""), name


def test_other_names():
    for name in "rain trains strain testis invalid value devil contest latest a 7 2017 set".split():
        assert read_name(name) is None, name
    for name in ("train_test", "train-or-val-or-test", "images", "", "unlabeled"):
        assert read_name(name) is None, name
    assert read_name("seg_train") == ("train", "train", "seg")
    assert read_name("DIV2K_valid_HR") == ("valid", "validation", "div k hr")
    assert read_name("bullet train") == ("train", "train", "bullet")
    assert [is_extra(name) for name in ("Unlabelled", "unlabeled_images", "extra", "seg_pred")]
    assert not any(is_extra(name) for name in ("train", "extra_test", "cats"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train2014", "train2017", "val2014", "x"], ["train", "train", "test"]),
        (["seg_train", "seg_test", "seg_pred"], ["train", "test"]),
        (["ILSVRC2012_img_val", "ILSVRC2012_img_train"], ["test", "train"]),
        (["train", "test_stg1", "test_stg2"], ["train", "test", "test"]),
        (["train", "test", "test_stg2"], ["train", "test"]),
        # Names with other words may be classes.
        (["dogs_train", "cats_train", "dogs_test", "cats_test"], []),
        (["dogs_train", "cats_train", "dogs_test", "cats_test", "x"], []),
        (["seg_train", "seg_test", "cats"], ["train", "test"]),
        (["box_train", "box_test", "gt_box", "toy_train"], ["train", "test"]),
        (["pets_train", "pets_test", "cars_train"], ["train", "test"]),
        (["val", "pets_train", "pets_test", "x"], ["train", "test"]),
        (["bullet_train", "steam_train", "car"], []),
        (["train", "car"], ["train"]),
    ],
)
def test_which_of_several_names_are_splits(names, expected):
    chosen = choose_splits(names)
    assert list(chosen.values()) == expected
    assert list(chosen) == [name for name in names if name in chosen]


@pytest.mark.parametrize(
    "tops",
    [
        ("train/{}", "test/{}"),
        ("training_set/training_set/{}", "test_set/test_set/{}"),
        ("training_set/{}", "test_set/{}"),
        ("train2017/{}", "val2017/{}"),
        ("seg_train/seg_train/{}", "seg_test/seg_test/{}"),
        ("dogs-vs-cats/train/{}", "dogs-vs-cats/test/{}"),
        ("a/b/c/Train/{}", "a/b/c/Valid/{}"),
        ("train/images/{}", "val/images/{}"),
        ("data/train/train/images/{}", "data/test/test/images/{}"),
        ("train/{}/images", "test/{}/images"),
        ("asl_alphabet_train/asl_alphabet_train/{}", "asl_alphabet_test/{}"),
        ("/data/pets/train/{}", "/data/pets/test/{}"),
        ("{}/train", "{}/test"),
        ("pets/{}/training", "pets/{}/validation"),
    ],
)
def test_folders_that_are_splits(tops, caplog):
    keys = below(*tops)
    train, test = ([k for k in keys if k in below(top)] for top in tops)
    for subset, expected in (("train", train), ("test", test), ("all", keys)):
        chosen = in_subset(keys, read_layout(keys).subsets, subset, 0.2)
        assert [key for key, each in zip(keys, chosen, strict=True) if each] == expected
    assert classes_of(keys) == [key.rpartition("/")[2][:4] for key in keys]
    assert read_layout(keys).doubt == ""
    assert not caplog.records


def test_what_is_next_to_the_splits_is_for_neither():
    keys = below("seg_train/seg_train/{}", "seg_test/seg_test/{}", "seg_pred/seg_pred")
    assert by_folder(keys, read_layout(keys).subsets)["seg_pred/seg_pred"] is None
    assert by_folder(keys, classes_of(keys))["seg_pred/seg_pred"] is None
    keys = below("{}/train", "{}/test", "{}/masks")
    assert by_folder(keys, read_layout(keys).subsets) == {
        f"{c}/{s}": {"train": "train", "test": "test"}.get(s)
        for c in CLASSES
        for s in ("train", "test", "masks")
    }


@pytest.mark.parametrize(
    ("tops", "classes", "unsaid"),
    [
        (("train/{}",), {"cats", "dogs"}, "tests"),
        (("x/y/Training Set/{}",), {"cats", "dogs"}, "tests"),
        (("train/{}", "unlabeled"), {"cats", "dogs", None}, "tests"),
        (("train/{}", "extra/{}"), {"cats", "dogs", None}, "tests"),
        (("seg_train/{}", "seg_pred"), {"cats", "dogs", None}, ""),
        (("train.X1/{}", "train.X2/{}"), {"cats", "dogs"}, "tests"),
        (("val/{}", "test/{}"), {"cats", "dogs"}, "training"),
        (("train", "unlabeled"), None, "tests"),
    ],
)
def test_splits_of_one_kind_are_no_classes(tops, classes, unsaid):
    keys = below(*tops)
    found = read_layout(keys)
    assert found.subsets is None
    assert found.classes is None if classes is None else set(found.classes) == classes
    if unsaid:
        assert f"none is for {unsaid}: a hash" in why_unsplit(keys, "pets")
    # The holdout is the one of the keys, as ever.
    plain = in_subset([f"{key}" for key in keys], [None] * len(keys), "all", 0.2)
    assert plain.all()


def test_the_only_split_is_named_once(tmp_path, caplog):
    root = save(tmp_path, below("train/{}", "unlabeled"))
    for subset in ("train", "test", "all", "train"):
        images = open_images("auto", path=root, size=8, subset=subset, holdout=0.5)
    assert [text for text in warnings(caplog) if "hash" in text] == [
        f"{root.name}: 'train' in train/cats/cats0.png is the name of a split, but none is "
        "for tests: a hash of each name chooses the images for tests. Use the names 'train' "
        "and 'test' (of top folders or shards, or in the column 'split' of a table) and open both "
        "together, or use subset='all'"
    ]
    assert images.class_names == ()
    (root / "unlabeled").rename(root / "test")
    caplog.clear()
    assert open_images("auto", path=root, size=8, subset="train").keys == tuple(below("train/{}"))
    assert not [text for text in warnings(caplog) if "hash" in text]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_the_only_split_of_an_archive_is_named_though_it_is_in_no_key(tmp_path, caplog, kind):
    save(tmp_path / "set", below("train/{}"))
    path = shutil.make_archive(str(tmp_path / "photos"), kind, tmp_path / "set")
    images = open_images(kind, size=8, path=path, subset="train", holdout=0.0)
    assert images.keys[0] == "cats/cats0.png"
    (said,) = warnings(caplog)
    assert said.startswith(f"photos.{kind}: 'train' in train/ is the name of a split, but none")
    caplog.clear()
    save(tmp_path / "set", below("test/{}"))
    path = shutil.make_archive(str(tmp_path / "both"), kind, tmp_path, "set")
    assert len(open_images(kind, size=8, path=path, subset="train")) == 4
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("tops", "classes", "what"),
    [
        (("bus", "car", "train"), {"bus", "car", "train"}, "is read as a class"),
        (("bus/{}", "train"), {"bus", "train"}, "is read as a class"),
        (("bus/a", "bus/b", "train/{}"), {"bus", "train"}, "is read as a class"),
        (("invalid", "valid"), {"invalid", "valid"}, "is read as a class"),
        (("cats", "dogs", "unlabeled"), {"cats", "dogs", "unlabeled"}, "is read as a class"),
        (("unlabeled", "extra"), {"extra", "unlabeled"}, "'extra' is read as a class"),
        (("train/{}", "misc"), None, "may be a split or a class: the set has no labels"),
        (("train/{}", "misc/{}"), None, "may be a split or a class: the set has no labels"),
        (("cats", "dogs", "test/{}"), None, "may be a split or a class: the set has no labels"),
        (
            ("{}/test/bad", "{}/train/good"),
            None,
            "images in cats/test/bad may be the first folder or the last",
        ),
    ],
)
def test_where_a_split_may_be_a_class(tmp_path, caplog, tops, classes, what):
    root = save(tmp_path, below(*tops))
    for subset in ("all", "train", "train"):
        images = open_images("folder", path=root, size=8, subset=subset, holdout=0.0)
        assert set(images.class_names) == (classes or set())
    (text,) = warnings(caplog)
    assert text.startswith(f"{root.name}: ")
    assert what in text


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            below("{}/train", "{}/test", "birds/train"),
            "'train' in birds/train/cats0.png and 'test'",
        ),
        (
            below("dogs_train", "dogs_test", "cats_train", "cats_test"),
            "'cats_train' in cats_train/",
        ),
        (["a/train_1.png", "a/test_2.png"], "'train_1' in a/train_1.png and 'test_2'"),
        (["a/COCO_train2014_1.png", "b/COCO_val2014_2.png"], "'COCO_train2014_1' in a/"),
        (
            ["a/set/train/1.png", "b/set/2.png"],
            "'train' in a/set/train/1.png is the name of a split, but none",
        ),
        (["a/1.png", "b/train_1.png", "c/bullet_train/2.png"], ""),
        (["a/1.png", "b/2.png"], ""),
    ],
)
def test_names_of_splits_that_do_not_divide_the_set(keys, said):
    assert read_layout(keys).subsets is None
    text = why_unsplit(keys, "pets")
    assert said in text
    assert bool(said) == bool(text)
    assert "'train' in train.zip" in why_unsplit(["a/1.png", "b/2.png"], "train.zip")


def test_one_split_per_class_name_is_no_class():
    assert classes_of(below("dogs_train", "dogs_test", "cats_train", "cats_test")) is None
    assert set(classes_of(below("bullet_train", "steam_train"))) == {"bullet_train", "steam_train"}


def test_folders_around_all_are_passed_through_for_classes_too():
    assert classes_of(below("pets/2023/{}")) == ["cats", "cats", "dogs", "dogs"]
    assert classes_of(below("pets")) is None
    assert classes_of([*below("pets/{}"), "card.png"]) is None


def write_table(folder, heading, values):
    save(folder, [f"{i}.png" for i in range(len(values))])
    rows = [f"{i}.png,{value}" for i, value in enumerate(values)]
    (folder / "list.csv").write_text("\n".join([f"path,{heading}", *rows]))
    return folder / "list.csv"


@pytest.mark.parametrize(
    ("heading", "values", "train"),
    [
        ("subset", ["train", "val", "train"], ["0.png", "2.png"]),
        ("Usage", ["PublicTest", "Training", "PrivateTest"], ["1.png"]),
        ("data set", ["test", "test", "train2017"], ["2.png"]),
        ("is_train", ["1", "0", "1"], ["0.png", "2.png"]),
        ("is_train", ["1.0", "0.0", "1.0"], ["0.png", "2.png"]),
        ("train", ["False", "True", "False"], ["1.png"]),
        ("test", ["yes", "no", "yes"], ["1.png"]),
        ("purpose", ["train", "test", "extra"], ["0.png"]),
    ],
)
def test_columns_of_splits(tmp_path, caplog, heading, values, train):
    table = write_table(tmp_path, heading, values)
    open_images("auto", path=table, size=8)
    assert not warnings(caplog)
    for subset in ("train", "train"):
        open_images("auto", path=table, size=8, subset=subset, holdout=0.0)
    (text,) = warnings(caplog)
    assert text.startswith(f"list.csv: the column {heading!r} says splits (")
    assert f"the option split_column: --option split_column={shlex.quote(heading)};" in text
    caplog.clear()
    options = {"path": table, "size": 8, "split_column": heading}
    assert list(open_images("auto", subset="train", **options).keys) == train
    rest = [f"{i}.png" for i in range(3) if f"{i}.png" not in train and values[i] != "extra"]
    assert list(open_images("auto", subset="test", **options).keys) == rest
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("heading", "values", "said"),
    [
        ("fold", ["1", "2", "3"], "may be of splits, but not all its values (1, 2, 3) are names"),
        ("set", ["train", "train", "train"], "says splits (train)"),
        ("partition", ["a", "test", "train"], "says splits (a, test, train)"),
        ("colour", ["train", "red", "green"], ""),
        ("label", ["train", "test", "train"], ""),
        ("size", ["1", "0", "1"], ""),
    ],
)
def test_columns_that_may_be_of_splits(tmp_path, caplog, heading, values, said):
    table = write_table(tmp_path, heading, values)
    open_images("auto", path=table, size=8, subset="train", holdout=0.0)
    assert [said in text for text in warnings(caplog)] == ([True] if said else [])


def test_a_column_of_splits_that_is_not_there(tmp_path):
    table = write_table(tmp_path, "subset", ["train", "test"])
    with pytest.raises(ValueError, match=r"list.csv has no column 'set', .* option split_column"):
        open_images("manifest", path=table, size=8, split_column="set")
    table = write_table(tmp_path, "split", ["train", "train"])
    with pytest.raises(
        ValueError, match=r"'test' of list.csv is empty \(2 .*\): use subset='all'$"
    ):
        open_images("manifest", path=table, size=8, subset="test")


def test_scan_says_why_there_are_no_subsets(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path, "subset", ["train", "test"])
    assert command.main(["scan", "list.csv"]) == 0
    out = capsys.readouterr().out
    assert "subsets     none: a hash of each name chooses some for tests\n  the column" in out
    assert (
        command.main(["scan", "list.csv", "--option=split_column=subset", "--out=x.parquet"]) == 0
    )
    assert "subsets     1 for training, 1 for tests, 0 for neither" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names",
    [("train.txt", "test.txt"), ("meta/train.csv",), ("metadata.csv",), ("train_test_split.txt",)],
)
def test_lists_beside_images_are_told_of(tmp_path, caplog, names):
    save(tmp_path, [f"{i}.png" for i in range(3)])
    for name in (*names, "notes.txt", "train_log.txt", "train_0001.txt", "__MACOSX/._train.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("path,split\n0.png,test\n")
    open_images("auto", path=tmp_path, size=8)
    assert not warnings(caplog)
    open_images("auto", path=tmp_path, size=8, subset="train", holdout=0.0)
    (text,) = warnings(caplog)
    shown = " and ".join(sorted(names))
    assert f"{shown} may list the images for training and for tests, but lists beside" in text


def test_an_empty_path_is_refused():
    for source, path in (("auto", ""), ("folder", ""), ("folder", ["a", ""]), ("zip", "")):
        with pytest.raises(ValueError, match=r"^path is empty: give .*'.' for the current folder$"):
            open_images(source, path=path, size=8)


@pytest.mark.parametrize(
    ("values", "said"), [([1, 0, None], True), ([0.5, 1, 0], False), ([None] * 3, False)]
)
def test_floats_of_a_table_may_be_truth_values(tmp_path, caplog, values, said):
    save(tmp_path, [f"{i}.png" for i in range(3)])
    paths = pa.array([f"{i}.png" for i in range(3)])
    for number, kind in enumerate((pa.float32(), pa.float64())):
        table = pa.table({"path": paths, "is_train": pa.array(values, kind)})
        pq.write_table(table, tmp_path / f"{number}.parquet")
        open_images(
            "auto", path=tmp_path / f"{number}.parquet", size=8, subset="train", holdout=0.0
        )
        assert ["'is_train' says splits" in x for x in warnings(caplog)] == [True] * said
        caplog.clear()


def test_rows_of_splits_that_are_not_known_are_told_of(tmp_path, caplog):
    table = write_table(tmp_path, "split", ["train", "test", "tset", "tset", "extra"])
    for _ in range(2):
        assert len(open_images("auto", path=table, size=8, subset="train")) == 1
    (text,) = warnings(caplog)
    assert text.startswith("list.csv: 2 of 5 images are of splits that are not known ('tset': 2),")
