"""`python -m tvt_jax.gather`: open photographs for training, for those who have no data set."""

from pathlib import Path

from tvt_jax.cli import run
from tvt_jax.errors import UserError

_FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))


def photographs(
    output: Path,
    packages: Path | None = None,
    min_bits_per_px: float = 0.0,
    min_side: int = 64,
    text: int = 0,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Gather 153 open photographs: checked, shrunk to the scale at which they are sharp, PNG.

    They come from Debian's packages (510 MB), which are downloaded and not installed. An
    interrupted run is continued by the same command. The folder also gets `photographs.tsv` with
    the origin and licence of each image.

    Args:
        output: the new folder of images, for --config.data.train or `prepare`.
        packages: folder of Debian packages (.deb); missing ones are downloaded into it. Default: in
            the user's cache.
        min_bits_per_px: leave out photographs that are compressed more strongly than that.
        min_side: leave out those with a shorter side, in px as they are written; training wants
            at least its crop.
        text: images of text to render besides, with this machine's fonts.
        seed: of the text.
        quiet: print nothing but errors.
    """
    from tvt_jax.data.open_photographs.gather import (
        PHOTOGRAPHS,
        gather_photographs,
        read_table,
        some_of,
    )
    from tvt_jax.data.open_photographs.text_images import fonts_of
    from tvt_jax.evaluation.legibility import text_fonts

    fonts = []
    if text:
        fonts = fonts_of([*_FONT_FOLDERS, *{Path(font).parent for font in text_fonts()}])
    done = gather_photographs(
        read_table(PHOTOGRAPHS), output, packages, min_bits_per_px, min_side, text, seed, fonts,
        quiet,
    )  # fmt: skip
    if not quiet:
        print(
            f"{output}: {done.photographs} photographs, {text} images of text; "
            f"{done.small} photographs are smaller than {min_side} px and left out"
        )
    if done.failed:
        raise UserError(
            f"{len(done.failed)} photographs are left out, all others are in {output}: "
            f"{some_of(done.failed)}."
        )


def reserved(folders: list[Path], /) -> None:
    """Print the table of images that are kept for evaluation, from unpacked packages.

    Args:
        folders: searched to the bottom; each named like its package. The table of this project was
            made from the public benchmark's packages (scikit-image 0.26.0, scikit-learn 1.9.1,
            matplotlib 3.11.2, scipy 1.10.1), Debian 12's palapeli-data, opencv-doc, lxqt-themes and
            cimg-doc, and the package files of the bundled held-out photographs, in this order.
    """
    from tvt_jax.data.open_photographs.reserved import reserved_table

    for line in reserved_table(folders):
        print(line)


if __name__ == "__main__":
    commands = {"photographs": photographs, "reserved": reserved}
    run(commands, prog="python -m tvt_jax.gather")
