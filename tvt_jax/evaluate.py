"""`python -m tvt_jax.evaluate`: quality of images, as figures that can be compared."""

from pathlib import Path
from typing import Any

from tvt_jax.cli import run
from tvt_jax.errors import UserError


def vae(model: list[Path], input: Path, output: Path | None = None, quiet: bool = False) -> None:
    """Measure how well VAEs reconstruct images: PSNR, SSIM and LPIPS as in the paper's Table 1.

    Args:
        model: VAE folders, or model folders around them; one row each.
        input: a folder of images, searched to the bottom; the paper's is Urban100.
        output: report in JSON with the protocol, versions and the values of each image.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.vae_report import evaluate_vaes, vae_table

    _check_report_file(output)
    report = evaluate_vaes(model, input, quiet)
    print(vae_table(report))
    _write_report(output, report)
    if report["failed"]:
        raise UserError(
            f"{len(report['failed'])} images could not be used, the means are over the others: "
            f"{', '.join(report['failed'])}."
        )


def images(
    pred: Path,
    ref: Path,
    protocol: str = "paper",
    metrics: str | None = None,
    output: Path | None = None,
    quiet: bool = False,
) -> None:
    """Compare images with their references of the same names.

    Args:
        pred: a folder of images, searched to the bottom, or one image.
        ref: a folder with the same names (suffixes may differ), or one image.
        protocol: what PSNR and SSIM are measured on: paper (Y, no border), classic (Y, 4 px cut),
            realce (RGB, 2 px cut).
        metrics: instead of the protocol's, separated by commas: psnr, ssim, fsimc, fsim, ms-ssim,
            gmsd, lpips-vgg, lpips-alex, dists, niqe.
        output: report in JSON with the protocol, versions and the values of each image.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.images_report import compare_images, images_table

    _check_report_file(output)
    report = compare_images(pred, ref, protocol, _names(metrics), quiet)
    print(images_table(report))
    _write_report(output, report)


def restoration(
    model: tuple[Path, ...] = (),
    against: str = "bicubic,lanczos",
    pred: tuple[Path, ...] = (),
    dataset: str | None = None,
    data: Path = Path("."),
    protocol: str | None = None,
    metrics: str | None = None,
    degradation: str = "realistic",
    text: bool = False,
    output: Path | None = None,
    quiet: bool = False,
) -> None:
    """Restore a data set by several methods: quality beside the paper's, seconds, memory.

    Without --dataset it is the public benchmark: nine images of the packages scikit-image,
    scikit-learn and matplotlib, installed or fetched from PyPI once. Each method runs in a process
    of its own.

    Args:
        model: model folders; one row each.
        against: methods to compare with, separated by commas: bicubic, lanczos, realesrgan-x4plus,
            realesr-animevideov3.
        pred: folders of images that something else restored, by the names of the data set.
        dataset: realsr, drealsr, div2k-val (StableSR's test sets, the paper's Table 2), or a folder
            with test_LR and test_HR, or lq and gt.
        data: folder where StableSR's test sets were unpacked.
        protocol: paper, classic or realce; default paper for a data set, classic without.
        metrics: instead of the protocol's, separated by commas; see `evaluate images`.
        degradation: of the public benchmark: realistic (blur, noise, JPEG) or bicubic.
        text: also render text, degrade and restore it, and count the characters that OCR reads.
        output: folder for the report (JSON, CSV, Markdown) and all images.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.restoration_report import evaluate_restoration, restoration_table

    if output is not None and output.is_file():
        raise UserError(f"`output` {output} is a file, and a folder is wanted here.")
    report = evaluate_restoration(
        [*(_names(against) or ()), *map(str, model)],
        dataset=dataset,
        data=data,
        pred=pred,
        degradation=degradation,
        protocol=protocol,
        metrics=_names(metrics),
        text=text,
        output=output,
        quiet=quiet,
    )
    print(restoration_table(report))


def text(
    dataset: Path,
    model: tuple[Path, ...] = (),
    against: str = "bicubic",
    pred: tuple[Path, ...] = (),
    output: Path | None = None,
    quiet: bool = False,
) -> None:
    """Restore Real-CE's scene text and read it: quality, ACC and NED, beside the paper's Table 3.

    Needs `pip install rapidocr==3.10.0 onnxruntime`.

    Args:
        dataset: Real-CE's folder, with val/13mm, val/52mm, val/annos and val/valid_list.txt.
        model: model folders; one row each.
        against: methods to compare with, separated by commas; bicubic is the floor.
        pred: folders of images that something else restored, by the names of Real-CE.
        output: folder for the report in JSON and all images.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.text_report import evaluate_text, text_table

    if output is not None and output.is_file():
        raise UserError(f"`output` {output} is a file, and a folder is wanted here.")
    methods = [*(_names(against) or ()), *map(str, model)]
    print(text_table(evaluate_text(dataset, methods, pred, output, quiet)))


def _names(text: str | None) -> list[str] | None:
    """Names that commas separate."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _check_report_file(output: Path | None) -> None:
    if output is not None and output.is_dir():
        raise UserError(f"`output` {output} is a folder, and a file is wanted here.")


def _write_report(output: Path | None, report: dict[str, Any]) -> None:
    from tvt_jax.evaluation.report import write_report

    if output is not None:
        write_report(output, report)


if __name__ == "__main__":
    run(
        {"images": images, "restoration": restoration, "text": text, "vae": vae},
        prog="python -m tvt_jax.evaluate",
    )
