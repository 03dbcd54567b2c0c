"""Where images come from, decoded to uint8 on the host and nothing more."""

from kt_jax.data.decode import decode_image
from kt_jax.data.images import Images, check_size, open_images
from kt_jax.data.loader import Balanced, Reading, Shuffled, eval_batches, train_batches
from kt_jax.data.sources import Excluded

__all__ = [
    "Balanced",
    "Excluded",
    "Images",
    "Reading",
    "Shuffled",
    "check_size",
    "decode_image",
    "eval_batches",
    "open_images",
    "train_batches",
]
