"""Speed of the tagger at full size, with random weights."""

import functools
import time

import jax
import numpy as np

from tvt_jax.benchmarks.complexity import multiply_adds
from tvt_jax.benchmarks.speed import Program
from tvt_jax.benchmarks.systems import random_network
from tvt_jax.config import RAM_SWIN_LARGE, TaggerConfig
from tvt_jax.errors import UserError
from tvt_jax.inference.tagging import class_probabilities, label_queries
from tvt_jax.memory import compile_to_fit


def compile_tagger(batch_size: int, dtype: str, config: TaggerConfig = RAM_SWIN_LARGE) -> Program:
    """Compiles the tagger on random images.

    Args:
      batch_size: images at a time.
      dtype: of weights and computation.
      config: of the network.

    Returns: the program, which gives the probabilities of the classes.
    Raises:
      UserError: `batch_size` is not positive, or memory does not suffice.
    """
    if batch_size < 1:
        raise UserError("`batch_size` must be at least 1.")
    tagger = random_network("tagger", config, dtype)
    labels = label_queries(tagger.graph, tagger.params)
    sides = (batch_size, config.image_size, config.image_size, 3)
    images = jax.device_put(np.random.default_rng(0).uniform(0, 1, sides).astype(np.float32))
    arguments = (tagger.params, labels, images)
    # Not what is compiled below, which would then have the plain attention that is counted.
    call = functools.partial(class_probabilities.__wrapped__, tagger.graph)
    flops = 2.0 * sum(multiply_adds(call, *jax.eval_shape(lambda *a: a, *arguments)))
    start = time.perf_counter()
    program, needed = compile_to_fit(
        class_probabilities.lower(tagger.graph, *arguments),
        f"a batch of {batch_size} images",
        "use a smaller `batch_size`",
    )
    return Program(
        run=functools.partial(program, *arguments),
        dtype=dtype,
        devices=1,
        batch_size=batch_size,
        flops=flops,
        held=sum(leaf.nbytes for leaf in jax.tree.leaves(arguments)),
        needed=needed,
        compile_seconds=time.perf_counter() - start,
    )
