"""Lists, checks and decodes images on the host, as uint8. Augmentation is not done here."""

from kt_jax.data.decode import decode_image, fit_square
from kt_jax.data.duplicates import (
    NEAR,
    Duplicates,
    Leaks,
    find_duplicates,
    find_leaks,
    hash_images,
)
from kt_jax.data.image_set import (
    Hashes,
    Images,
    check_size,
    find_shortage,
    hash_keys,
    index_columns,
    take_rows,
)
from kt_jax.data.loader import Reading, eval_batches, train_batches
from kt_jax.data.opening import open_images, options_of
from kt_jax.data.order import Balanced, Shuffled
from kt_jax.data.sources import Excluded, option_names
from kt_jax.data.sources.names import find_file

__all__ = [
    "NEAR",
    "Balanced",
    "Duplicates",
    "Excluded",
    "Hashes",
    "Images",
    "Leaks",
    "Reading",
    "Shuffled",
    "check_size",
    "decode_image",
    "eval_batches",
    "find_duplicates",
    "find_file",
    "find_leaks",
    "find_shortage",
    "fit_square",
    "hash_images",
    "hash_keys",
    "index_columns",
    "open_images",
    "option_names",
    "options_of",
    "take_rows",
    "train_batches",
]
