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
    metrics: str = "psnr,ssim,lpips-vgg,lpips-alex",
    output: Path | None = None,
    quiet: bool = False,
) -> None:
    """Compare images with their references of the same names: PSNR-Y, SSIM-Y and LPIPS.

    Args:
        pred: a folder of images, searched to the bottom, or one image.
        ref: a folder with the same names (suffixes may differ), or one image.
        metrics: what to measure, separated by commas.
        output: report in JSON with the protocol, versions and the values of each image.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.images_report import compare_images, images_table

    _check_report_file(output)
    report = compare_images(pred, ref, [m.strip() for m in metrics.split(",")], quiet)
    print(images_table(report))
    _write_report(output, report)


def restoration(
    model: tuple[Path, ...] = (),
    against: str = "bicubic,lanczos",
    degradation: str = "realistic",
    text: bool = False,
    output: Path | None = None,
    quiet: bool = False,
) -> None:
    """Restore the public benchmark by several methods: quality, seconds, memory, legible text.

    The nine images come from the packages scikit-image, scikit-learn and matplotlib, installed or
    fetched from PyPI once. Each method runs in a process of its own.

    Args:
        model: model folders; one row each.
        against: methods to compare with, separated by commas: bicubic, lanczos, realesrgan-x4plus,
            realesr-animevideov3.
        degradation: "realistic" (blur, noise, JPEG) or "bicubic".
        text: also render text, degrade and restore it, and count the characters that OCR reads.
        output: folder for the report in JSON and all images.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.restoration_report import evaluate_restoration, restoration_table

    if output is not None and output.is_file():
        raise UserError(f"`output` {output} is a file, and a folder is wanted here.")
    methods = [name.strip() for name in against.split(",") if name.strip()]
    methods += [str(folder) for folder in model]
    report = evaluate_restoration(methods, degradation, text, output, quiet)
    print(restoration_table(report))
    if output is not None:
        _write_report(output / "report.json", report)


def _check_report_file(output: Path | None) -> None:
    if output is not None and output.is_dir():
        raise UserError(f"`output` {output} is a folder, and a file is wanted here.")


def _write_report(output: Path | None, report: dict[str, Any]) -> None:
    from tvt_jax.files import atomic_file, write_json

    if output is not None:
        with atomic_file(output) as temporary:
            write_json(temporary, report)


if __name__ == "__main__":
    run(
        {"images": images, "restoration": restoration, "vae": vae},
        prog="python -m tvt_jax.evaluate",
    )
