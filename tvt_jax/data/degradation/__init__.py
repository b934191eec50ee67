"""Real-ESRGAN's second-order degradation: a low resolution for every high resolution, on the CPU.

    recipe = draw_recipe(config, rng, height, width)    # everything random
    lr, conditioning = degrade(image, recipe)           # nothing random

A recipe is the list of operations with all their parameters, including the seeds of the noise: the
same image and recipe give the same bytes on the same machine. Only numpy, OpenCV, Pillow and
scipy's special functions are used, no jax: it runs in worker processes.

OpenCV spreads its work over threads. Where every core has a worker process already, call
`cv2.setNumThreads(0)` and `keep_freed_memory()` of `tvt_jax.data.worker_process` at the start of
each. Nothing here changes settings of the process.

Source: xinntao/BasicSR `basicsr/data/degradations.py`, `basicsr/utils/diffjpeg.py`; the order of
  the operations from cswry/OSEDiff `dataloaders/realesrgan.py`.
"""

from tvt_jax.data.degradation.draw import draw_recipe, smallest_side
from tvt_jax.data.degradation.recipe import Recipe, degrade

__all__ = ["Recipe", "degrade", "draw_recipe", "smallest_side"]
