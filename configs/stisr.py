"""Scene text: stage 3 on the real pairs of the Real-CE data set (paper, section 4.2).

    python -m tvt_jax.train --config configs/stisr.py --workdir runs/stisr \
        --config.data.train=Real-CE --config.sd=stable-diffusion-2-1-base \
        --config.vae=runs/stage2/model/vae

Real-CE is the data set's folder, as published; its training pairs of 13 and 52 mm are used.

Variants:
    (none)  the paper's experiment
    tiny    small networks; the bundled photographs, degraded, stand for pairs

Everything but the data is as in `configs/stage3.py`. The paper does not give the number
of steps; with 1,935 training pairs it is set lower here than in stage 3.
"""

from pathlib import Path

from tvt_jax.config import RestorationTrainConfig, parse_variant, read_config


def get_config(variant: str = "") -> RestorationTrainConfig:
    """Returns the configuration of a variant."""
    _, size = parse_variant(variant, sizes=("tiny",))
    config = read_config(f"{Path(__file__).with_name('stage3.py')}:{size}")
    if not size:
        config.data.pairs, config.data.degradation = "realce", None
        config.steps = 20_000
    return config
