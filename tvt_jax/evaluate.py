"""`python -m tvt_jax.evaluate`: quality of reconstructions, as figures that can be compared."""

from pathlib import Path

from tvt_jax.cli import run
from tvt_jax.errors import UserError


def vae(model: list[Path], input: Path, output: Path | None = None, quiet: bool = False) -> None:
    """Measure how well VAEs reconstruct pictures: PSNR, SSIM and LPIPS as in the paper's Table 1.

    Args:
        model: VAE folders, or model folders around them; one row each.
        input: a folder of pictures, searched to the bottom; the paper's is Urban100.
        output: report in JSON with the protocol, versions and the values of each picture.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.atomic_write import atomic_file
    from tvt_jax.compilation import enable_compilation_cache
    from tvt_jax.evaluation.vae_report import evaluate_vaes, vae_table
    from tvt_jax.weights.model_folder import write_json

    if output is not None and output.is_dir():
        raise UserError(f"--output {output} is a folder, and a file is wanted here.")
    enable_compilation_cache()
    report = evaluate_vaes(model, input, quiet)
    print(vae_table(report))
    if output is not None:
        with atomic_file(output) as temporary:
            write_json(temporary, report)
    if report["failed"]:
        raise UserError(
            f"{len(report['failed'])} pictures could not be used, the means are over the others: "
            f"{', '.join(report['failed'])}."
        )


if __name__ == "__main__":
    run({"vae": vae}, prog="python -m tvt_jax.evaluate")
