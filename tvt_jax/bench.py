"""`python -m tvt_jax.bench`: figures about the networks and their speed."""

from tvt_jax.cli import run


def complexity() -> None:
    """Print parameters and multiply-adds of every network, beside the paper's figures."""
    from tvt_jax.evaluation.complexity import complexity_report

    print(complexity_report())


if __name__ == "__main__":
    run({"complexity": complexity}, prog="python -m tvt_jax.bench")
