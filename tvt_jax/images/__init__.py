"""Image files: as 8-bit RGB for networks (`pixels`), or with all that they hold (`photograph`)."""

from tvt_jax.images.finding import check_readable, find_images
from tvt_jax.images.formats import image_suffixes, writable_suffixes
from tvt_jax.images.pixels import (
    BadImage,
    DecodedImage,
    decode_image,
    encode_png,
    read_image,
    to_float,
    write_image,
)

__all__ = [
    "BadImage",
    "DecodedImage",
    "check_readable",
    "decode_image",
    "encode_png",
    "find_images",
    "image_suffixes",
    "read_image",
    "to_float",
    "writable_suffixes",
    "write_image",
]
