"""An image file taken apart: colours for the networks, and all that must return to the file."""

import dataclasses
import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from tvt_jax.errors import UserError
from tvt_jax.images.color_profiles import BadProfile, Profile, open_profile
from tvt_jax.images.formats import readable_formats
from tvt_jax.images.frame import Frame, make_frame
from tvt_jax.images.metadata import Metadata, read_metadata, upright_exif, upright_xmp
from tvt_jax.images.pixels import BadImage, orientation, reading_image, reads_sixteen_bits
from tvt_jax.images.samples import (
    GREY_MODES,
    deep_samples,
    loaded_samples,
    opencv_samples,
    scaled_to_sixteen_bits,
)

Kind = Literal["bilevel", "grey", "palette", "color"]
# Tags of TIFF.
_WIDTH, _HEIGHT, _XMP_TAG, _ICC_TAG = 256, 257, 700, 34675


@dataclasses.dataclass(frozen=True)
class Photograph:
    """An image file.

    Attributes:
      frames: the first, or all of them.
      kind: what its pixels are.
      dtype: of a channel in the file: "uint8", "uint16", "int32" or "float32".
      icc: the colour profile; None if the file has none, or the colours are not its any more.
      profile: what is done by it; None where nothing is to be done.
      metadata: of the file, for an upright image.
      notes: what was done or lost in reading, for the user.
      loop: how often an animation repeats; 0 for ever.
    """

    frames: tuple[Frame, ...]
    kind: Kind
    dtype: str
    icc: bytes | None
    profile: Profile | None
    metadata: Metadata
    notes: tuple[str, ...]
    loop: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image in px."""
        height, width = self.frames[0].rgb.shape[:2]
        return width, height


def read_photograph(path: Path, all_frames: bool = False) -> Photograph:
    """Reads an image file.

    Args:
      all_frames: of an animation or a file with several pages; else the first one.

    Raises:
      UserError: the file cannot be read, is damaged, or of a kind that cannot be restored.
    """
    try:
        return decode_photograph(path.read_bytes(), all_frames)
    except (OSError, BadImage) as error:
        raise UserError(f"{path} is not a readable image ({error}).") from error


def decode_photograph(data: bytes, all_frames: bool = False) -> Photograph:
    """As `read_photograph`, of the file's content.

    Values of 16 bits stay as they are. Integers of 32 bits within 0 to 65,535 are taken for 16-bit
    values, and floating-point values within [0, 1] have black at 0 and white at 1; otherwise the
    smallest value of the image is black and the largest white.

    Raises:
      BadImage: as `decode_image`; or values that are not finite.
    """
    with reading_image():
        try:
            image = Image.open(io.BytesIO(data), formats=readable_formats())
        except UnidentifiedImageError:
            return _decode_float_colors(data)
        with image:
            return _decode(image, data, all_frames)


def take_apart(image: Image.Image) -> Photograph:
    """As `read_photograph`, of an image in memory; the frame that it is at."""
    try:
        with reading_image():
            return _decode(image, b"", all_frames=False)
    except BadImage as error:
        raise UserError(f"`image` cannot be read ({error}).") from error


def _decode(image: Image.Image, data: bytes, all_frames: bool) -> Photograph:
    if image.mode == "LAB":
        raise BadImage("CIELAB colours")
    deep, kind = reads_sixteen_bits(image), _kind(image)  # before it is loaded
    count, notes = _count_frames(image), []
    if all_frames and count * image.width * image.height > 2 * Image.MAX_IMAGE_PIXELS:
        raise BadImage(f"too many pixels in its {count} frames")
    if count > 1 and not all_frames:
        notes.append(f"the first of its {count} frames is taken; `all_frames` takes all")
    image.load()
    metadata, lost = read_metadata(image)
    notes += lost
    if image.format == "MPO":
        notes.append("further images in the file, such as a map of brightness, are left out")
    mode = image.mode
    icc, profile = image.info.get("icc_profile"), None
    if mode == "CMYK":
        icc = None
    elif icc:
        try:
            profile = open_profile(icc, "GRAY" if kind in ("bilevel", "grey") else "RGB")
        except BadProfile as error:
            notes.append(f"its colour profile is left out: {error}")
            icc = None
    turn = orientation(image)
    loop = image.info.get("loop", 0)
    frames, dtype = [], "uint8"
    for frame in ImageSequence.Iterator(image) if count > 1 and all_frames else [image]:
        if deep and count > 1 and not frame.mode.startswith("I;16"):
            notes.append("16 bits of several frames become 8")
        samples = deep_samples(data, frame, kind == "grey") if deep and count == 1 else None
        if samples is None:
            frame.load()
            samples, said = loaded_samples(frame, mode == "CMYK")
            notes += [note for note in said if note not in notes]
        dtype = samples.dtype.name
        samples, limits = scaled_to_sixteen_bits(_upright(samples, turn))
        duration = frame.info.get("duration") or 0
        made = make_frame(samples, profile)
        frames.append(dataclasses.replace(made, white_and_black=limits, duration=duration))
    if len({f.rgb.shape for f in frames}) > 1:
        raise BadImage("frames of several sizes; leave out `all_frames` for the first")
    return Photograph(
        tuple(frames), kind, dtype, icc, profile, metadata,
        tuple(dict.fromkeys(notes)), loop if isinstance(loop, int) else 0,
    )  # fmt: skip


def _count_frames(image: Image.Image) -> int:
    if image.format == "MPO":  # the others are previews, or maps of brightness
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a later frame is damaged; there is the first
        return 1


def _kind(image: Image.Image) -> Kind:
    """What the pixels of an image are that is not loaded yet."""
    if image.mode in ("P", "PA"):
        return "palette"
    if image.mode == "1":
        return "bilevel" if "transparency" not in image.info else "grey"
    if any(str(tile[3]).startswith("LA") for tile in getattr(image, "tile", ())):
        return "grey"  # with 16 bits, which become RGBA
    return "grey" if image.mode in GREY_MODES or image.mode.startswith("I;16") else "color"


def _decode_float_colors(data: bytes) -> Photograph:
    """Decodes a TIFF file of several floating-point channels, which Pillow does not know."""
    tags = Image.Exif()
    if data[:4] in (b"II*\0", b"MM\0*"):
        tags.load(data)
    pixels = int(tags.get(_WIDTH, 0)) * int(tags.get(_HEIGHT, 0))
    samples = opencv_samples(data) if 0 < pixels <= 2 * Image.MAX_IMAGE_PIXELS else None
    if samples is None or samples.dtype != np.float32 or samples.ndim != 3:
        raise BadImage("unknown format or damaged")
    icc, xmp = tags.get(_ICC_TAG), tags.get(_XMP_TAG)
    notes, profile = [], None
    try:
        profile = open_profile(icc, "RGB") if icc else None
    except BadProfile as error:
        notes.append(f"its colour profile is left out: {error}")
        icc = None
    samples, limits = scaled_to_sixteen_bits(samples)
    frame = dataclasses.replace(make_frame(samples, profile), white_and_black=limits)
    return Photograph(
        (frame,), "color", "float32", icc, profile,
        Metadata(upright_exif(tags), upright_xmp(xmp)), tuple(notes),
    )  # fmt: skip


def _upright(samples: np.ndarray, turn: int) -> np.ndarray:
    if turn >= 5:
        samples = samples.swapaxes(0, 1)
    axes = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(turn, ())
    return np.flip(samples, axes)
