"""`python -m tvt_jax.evaluate`: quality of images, as figures that can be compared."""

from pathlib import Path

from tvt_jax.cli import run
from tvt_jax.errors import UserError


def vae(
    model: list[Path],
    input: Path | None = None,
    dataset: str | None = None,
    data: Path = Path("."),
    protocol: str = "paper",
    metrics: str | None = None,
    output: Path | None = None,
    quiet: bool = False,
) -> None:
    """Measure how well VAEs reconstruct images: as in the paper's Table 1.

    Args:
        model: VAE folders, or model folders around them; one row each.
        input: a folder of images, searched to the bottom, or one image.
        dataset: instead of --input: urban100, the paper's.
        data: folder where Urban100 was unpacked.
        protocol: paper, classic or realce; see `evaluate images`.
        metrics: instead of the protocol's, separated by commas.
        output: folder for the report (JSON, CSV, Markdown).
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.datasets import find_urban100
    from tvt_jax.evaluation.vae_report import evaluate_vaes, vae_table
    from tvt_jax.images import find_images

    _check_folder(output)
    if (input is None) == (dataset is None):
        raise UserError("give either `input` or `dataset`.")
    if dataset not in (None, "urban100"):
        raise UserError(f"`dataset` {dataset} is not urban100; name another folder by `input`.")
    found = find_urban100(data) if dataset else find_images(input)
    report = evaluate_vaes(
        model, found, dataset or str(input), protocol, _names(metrics), output, quiet
    )
    print(vae_table(report))
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
    extra_metrics: str | None = None,
    extra_python: Path | None = None,
    extra_weights: Path | None = None,
    output: Path | None = None,
    report: Path | None = None,
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
        extra_metrics: of pyiqa, separated by commas: afine_fr, afine_nr, clipiqa, musiq, qalign,
            topiq_nr, hyperiqa.
        extra_python: Python of an environment with pyiqa.
        extra_weights: folder with their weights, as TORCH_HOME; default ~/.cache/torch.
        output: folder for the report (JSON, CSV, Markdown).
        report: file for the report as an HTML page with the images.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.extra_metrics import ExtraMetrics
    from tvt_jax.evaluation.images_report import compare_images, images_table

    _check_folder(output)
    _check_page(report)
    made = compare_images(
        pred,
        ref,
        protocol,
        _names(metrics),
        ExtraMetrics(_names(extra_metrics) or (), extra_python, extra_weights),
        output,
        report,
        quiet,
    )
    print(images_table(made))


def restoration(
    model: tuple[Path, ...] = (),
    against: str = "bicubic,lanczos",
    pred: tuple[Path, ...] = (),
    dataset: str | None = None,
    data: Path = Path("."),
    protocol: str | None = None,
    metrics: str | None = None,
    extra_metrics: str | None = None,
    extra_python: Path | None = None,
    extra_weights: Path | None = None,
    degradation: str = "realistic",
    text: bool = False,
    output: Path | None = None,
    report: Path | None = None,
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
        extra_metrics: of pyiqa, separated by commas: afine_fr, afine_nr, clipiqa, musiq, qalign,
            topiq_nr, hyperiqa.
        extra_python: Python of an environment with pyiqa.
        extra_weights: folder with their weights, as TORCH_HOME; default ~/.cache/torch.
        degradation: of the public benchmark: realistic (blur, noise, JPEG) or bicubic.
        text: also render text, degrade and restore it, and count the characters that are read.
        output: folder for the report (JSON, CSV, Markdown) and all images.
        report: file for the report as an HTML page with the images.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.extra_metrics import ExtraMetrics
    from tvt_jax.evaluation.restoration_report import evaluate_restoration, restoration_table

    _check_folder(output)
    _check_page(report)
    made = evaluate_restoration(
        [*(_names(against) or ()), *map(str, model)],
        dataset=dataset,
        data=data,
        pred=pred,
        degradation=degradation,
        protocol=protocol,
        metrics=_names(metrics),
        extra=ExtraMetrics(_names(extra_metrics) or (), extra_python, extra_weights),
        text=text,
        output=output,
        html=report,
        quiet=quiet,
    )
    print(restoration_table(made))


def text(
    dataset: Path,
    model: tuple[Path, ...] = (),
    against: str = "bicubic",
    pred: tuple[Path, ...] = (),
    crnn: Path | None = None,
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
        crnn: folder with the recognisers of Real-CE's authors, which the paper's ACC and NED are
            of: scene_base_CRNN.pth, crnn.pth, benchmark.txt. Instead of RapidOCR; needs PyTorch.
        output: folder for the report (JSON, CSV, Markdown) and all images.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.evaluation.text_report import evaluate_text, text_table

    _check_folder(output)
    methods = [*(_names(against) or ()), *map(str, model)]
    print(text_table(evaluate_text(dataset, methods, pred, crnn, output, quiet)))


def _names(text: str | None) -> list[str] | None:
    """Names that commas separate."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _check_folder(output: Path | None) -> None:
    if output is not None and output.is_file():
        raise UserError(f"`output` {output} is a file, and a folder is wanted here.")


def _check_page(report: Path | None) -> None:
    if report is not None and report.is_dir():
        raise UserError(f"`report` {report} is a folder, and a file is wanted here.")


if __name__ == "__main__":
    run(
        {"images": images, "restoration": restoration, "text": text, "vae": vae},
        prog="python -m tvt_jax.evaluate",
    )
