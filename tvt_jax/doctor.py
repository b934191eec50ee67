"""`python -m tvt_jax.doctor`: check the installation, the devices and a model folder."""

from pathlib import Path

from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.cli import print_line, run
from tvt_jax.errors import UserError


def doctor(model: Path = SMALL_MODEL, clear_cache: bool = False) -> None:
    """Check versions, devices, caches and a model folder; exit status 2 if anything is wrong.

    Args:
        model: model folder to read through. Default: the small model that is bundled.
        clear_cache: remove compiled programs and downloads; what is needed comes back by itself.
    """
    from tvt_jax import diagnosis

    problems = 0
    for title, findings in (
        ("Versions", diagnosis.versions()),
        ("Devices", diagnosis.devices()),
        ("Caches", diagnosis.caches()),
        ("Model", diagnosis.model_folder(model)),
    ):
        print(title)
        for finding in findings:
            print_line(f"  {finding.text}")
            if finding.advice:
                problems += 1
                print_line(f"    -> {finding.advice}")
    if clear_cache:
        for folder in diagnosis.clear_caches():
            print_line(f"removed {folder}")
    if problems:
        raise UserError(f"{problems} problem{'s' if problems > 1 else ''}; see the lines with ->.")


if __name__ == "__main__":
    run(doctor, "python -m tvt_jax.doctor")
