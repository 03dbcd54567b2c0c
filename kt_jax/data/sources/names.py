"""File names: finds images and the kinds of other files, and makes keys from names.

Names are normalised here, once: a key is in NFC, with "/" between its parts, and without "." and
empty parts.
"""

import functools
import os
import re
import unicodedata
from collections.abc import Iterable

from kt_jax.data.splits import read_name

EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm",
)  # fmt: skip

# The reason in the list of excluded files.
NOT_UTF8 = "the name is not UTF-8"

# Files that are ignored and only counted, by folder, name or extension, as docs/your_images.md
# lists them.
_IGNORED_FOLDERS = frozenset(
    (
        "__MACOSX", "@eaDir", "@__thumb", "@Recycle", "#recycle", "$RECYCLE.BIN",
        "System Volume Information",
    )
)  # fmt: skip
_IGNORED_FILES = frozenset(
    (
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "readme", "license", "licence",
        "copying", "notice", "authors", "md5sums", "sha1sums", "sha256sums",
    )
)  # fmt: skip
_IGNORED_EXTENSIONS = frozenset(
    (
        ".txt", ".md", ".rst", ".html", ".htm", ".css", ".js", ".json", ".jsonl", ".xml", ".yaml",
        ".yml", ".toml", ".ini", ".cfg", ".csv", ".tsv", ".log", ".py", ".ipynb", ".sh", ".bat",
        ".cls", ".xmp", ".aae", ".url", ".lnk", ".md5", ".sha1", ".sha256",
    )
)  # fmt: skip
_LISTS = frozenset((".txt", ".csv", ".tsv", ".jsonl"))
_LIST_NAMES = frozenset(("metadata", "split", "splits", "train_test_split"))
# A scan writes such a file into the current folder.
_SCANNED = ".manifest.parquet"

_FORMATS = ".heic .heif .avif .jp2 .j2k .jpx .jxl .svg .psd .tga .ico .exr .hdr .dds .pcx .xcf .eps"
_RAW = ".cr2 .cr3 .crw .nef .arw .dng .orf .rw2 .raf .pef .srw .3fr .rwl .x3f"
_SOUNDS = ".wav .mp3 .flac .ogg .oga .opus .m4a .aac .wma .aif .aiff .amr .au .caf .mid .midi"
_FILMS = ".mp4 .mov .avi .mkv .webm .wmv .mpg .mpeg .m4v .flv .3gp .mts .m2ts .ogv .vob"
_PACKED = (
    ".gz .tgz .bz2 .tbz .tbz2 .xz .txz .zst .tzst .lz4 .lzma .7z .rar .iso .z01 .z02 .001 .002"
)
_DATA = (
    ".npy .npz .mat .h5 .hdf5 .pkl .pickle .pt .pth .safetensors .tfrecord .tfrecords .lmdb .mdb "
    ".arrow .feather .bin .dat .idx .dcm .nii"
)
_DOCUMENTS = ".pdf .doc .docx .ppt .pptx .xls .xlsx .ods .odt"
_REASONS = {
    extension: reason.format(extension)
    for extensions, reason in (
        (_FORMATS, "{} is not read here: convert it to JPEG or PNG"),
        (_RAW, "{} is a camera's raw file, which is not read here: convert it to JPEG or PNG"),
        (_SOUNDS, "a sound file ({}): only images are read"),
        (_FILMS, "a film ({}): extract its frames as JPEG or PNG, as ffmpeg does"),
        (
            ".zip .tar",
            "an archive ({}) is read by itself only: unpack it, or name it alone as PATH",
        ),
        (_PACKED, "an archive or a compressed file ({}): unpack it"),
        (".parquet .array_record", "{} is read by itself only: name it alone as PATH"),
        (_DATA, "a file of data ({}), no image: write its images as JPEG or PNG"),
        (_DOCUMENTS, "a document ({}), no image: export its pictures as JPEG or PNG"),
    )
    for extension in extensions.split()
}
_NO_PICTURES = frozenset((*_SOUNDS.split(), *_FILMS.split()))
_RENAME = "if it is an image, rename it to end in .jpg, .png, ..."
# Of a path on Windows. The folder "4:3" is not a drive.
_DRIVE = re.compile(r"[A-Za-z]:")
# Longer endings, and those without a letter, belong to names with dots.
_IS_EXTENSION = re.compile(r"\.(?=.*[a-z])[a-z0-9_~+-]{1,12}", re.DOTALL)


def ignored_as(name: str) -> str | None:
    """Returns the kind of an ignored file, for counting; None if it is not ignored.

    `name` is its path below the place that the user named, as only folders below that can hide it.
    """
    folder, _, base = name.rpartition("/")
    if word := _folder_ignored_as(folder):
        return word
    if base.startswith("."):
        return "hidden"
    base = base.lower()
    if base in _IGNORED_FILES:
        return base.strip()
    if base.endswith(_SCANNED):
        return _SCANNED
    extension = _extension(base)
    return extension if extension in _IGNORED_EXTENSIONS else None


@functools.lru_cache(maxsize=1024)
def _folder_ignored_as(folder: str) -> str | None:
    for part in folder.split("/"):
        if part.startswith(".") and part != "..":
            return "hidden"
        if part in _IGNORED_FOLDERS:
            return part
    return None


def is_list(name: str) -> bool:
    """Whether an ignored file may list images and their splits: "train.txt", "metadata.csv".

    Names with numbers do not: "train_0001.txt" may be the caption of an image.
    """
    stem, dot, extension = name.rpartition("/")[2].lower().rpartition(".")
    if dot + extension not in _LISTS or any(map(str.isdigit, stem)):
        return False
    said = read_name(stem)
    return stem in _LIST_NAMES or (said is not None and not said.rest)


def why_not(name: str) -> str | None:
    """Returns why a file that is not ignored is excluded by its name; None for an image."""
    extension = _extension(name)
    if extension in EXTENSIONS:
        return None
    if name.lower().endswith(f".tar{extension}") and extension in _PACKED.split():
        return f"a compressed tar (.tar{extension}): decompress it, and name it as PATH"
    if reason := _REASONS.get(extension):
        return reason
    if _IS_EXTENSION.fullmatch(extension):
        return f"{extension} is not read here: {_RENAME}"
    return f"the name has no extension that is read here: {_RENAME}"


def is_image(name: str) -> bool:
    """Whether the name is that of an image file, and not hidden."""
    return why_not(name) is None and ignored_as(name) is None


def is_sound_or_film(name: str) -> bool:
    """Whether the name is that of an audio or video file."""
    return _extension(name) in _NO_PICTURES


def normalise(text: str) -> str:
    """Returns the text in NFC, to compare names: macOS writes names in NFD."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def tidy(path: str) -> str:
    """Returns a path in the form of keys: NFC, without "." and empty parts.

    >>> tidy("./cat//./1.png")
    'cat/1.png'
    """
    path = normalise(path)
    if "//" not in path and "./" not in path and not path.endswith(("/", ".")):
        return path
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" * path.startswith("/") + "/".join(parts)


def tidy_packed(name: str) -> str:
    r"""Returns the key of an entry of an archive. Windows tools may write backslashes.

    >>> tidy_packed("train\\cat\\1.png")
    'train/cat/1.png'
    """
    return tidy(name.replace("\\", "/"))


def find_file(root: str | os.PathLike, key: str) -> str:
    """Returns the path of a key below a folder, in the disk's Unicode form (NFC, NFD, ...)."""
    path = os.path.join(root, key)
    if key.isascii() or os.path.lexists(path):
        return path
    found = "/" if key.startswith("/") else os.fspath(root)
    for part in key.strip("/").split("/"):
        found = os.path.join(found, _written(found, part))
    return found


def find_heading(headings: Iterable[str], wanted: str) -> str | None:
    """Finds a heading, without regard to case and outer spaces; None if there is none."""
    return next((each for each in headings if fold_heading(each) == fold_heading(wanted)), None)


def fold_heading(heading: str) -> str:
    """Returns a heading in the form for comparisons."""
    return normalise(heading).strip("\ufeff\u200b \t\r\n\xa0").strip().casefold()


def is_safe(name: str) -> bool:
    """Whether a name in an archive stays inside the folder where it would be unpacked."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] != "" and not _DRIVE.match(tidy_packed(name)) and ".." not in parts


def is_utf8(name: str) -> bool:
    """Whether a name from the file system is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(name: str) -> str:
    """Returns a printable form of a name that is not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _extension(name: str) -> str:
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:].lower() if dot > 0 else ""


def _written(folder: str, part: str) -> str:
    """Returns the name on disk whose NFC is `part`."""
    for name in (part, unicodedata.normalize("NFD", part)):
        if os.path.lexists(os.path.join(folder, name)):
            return name
    try:
        names = _names_in(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return part
    return names.get(part, part)


@functools.lru_cache(maxsize=64)
def _names_in(folder: str, changed: int) -> dict[str, str]:
    """Maps the NFC of names in a folder to the names; of equal ones, the first in order."""
    return {normalise(name): name for name in sorted(os.listdir(folder), reverse=True)}
