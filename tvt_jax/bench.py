"""`python -m tvt_jax.bench`: figures about the networks and their speed."""

from tvt_jax.cli import run


def complexity() -> None:
    """Print parameters and multiply-adds of every network, beside the paper's figures."""
    from tvt_jax.evaluation.complexity import complexity_report

    print(complexity_report())


def data(
    against_reference: bool = False, crop: int = 512, rounds: int = 7, images: int = 16
) -> None:
    """Time the degradation on one thread, with both presets.

    Args:
      against_reference: time BasicSR 1.4.2 beside it; needs torch and basicsr.
      crop: side of the crops, px.
      rounds: how often to measure; the median is told.
      images: in a round.
    """
    from tvt_jax.evaluation.data_speed import degradation_speed_report

    print(degradation_speed_report(against_reference, crop, rounds, images))


if __name__ == "__main__":
    run({"complexity": complexity, "data": data}, prog="python -m tvt_jax.bench")
