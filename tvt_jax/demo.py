"""`python -m tvt_jax.demo`: the bundled model restores a degraded photograph that it never saw."""

import time
from pathlib import Path

from tvt_jax.cli import run


def demo(output: Path = Path("outputs/demo")) -> None:
    """Restore a bundled degraded photograph, and compare it with bicubic enlargement.

    Args:
        output: folder for the restored photograph and the comparison.
    """
    import numpy as np

    from tvt_jax.bundled import DEGRADED_PHOTOGRAPH, HELDOUT_PHOTOGRAPHS
    from tvt_jax.evaluation.methods import load_method
    from tvt_jax.evaluation.protocol import PROTOCOLS
    from tvt_jax.evaluation.quality import METRICS, Quality
    from tvt_jax.evaluation.report import metric_cells
    from tvt_jax.images import read_image, write_image
    from tvt_jax.inference.upscaler import Upscaler

    degraded = read_image(DEGRADED_PHOTOGRAPH)
    original = read_image(HELDOUT_PHOTOGRAPHS / f"{DEGRADED_PHOTOGRAPH.stem}.jpg")
    upscaler = Upscaler.from_folder()
    start = time.perf_counter()
    upscaler(degraded)
    print(f"compiled and restored once in {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    restored = upscaler(degraded)
    height, width = degraded.shape[:2]
    print(
        f"{width}x{height} -> {restored.shape[1]}x{restored.shape[0]} again in "
        f"{time.perf_counter() - start:.2f} s"
    )

    bicubic = load_method("bicubic")(degraded)
    quality = Quality(PROTOCOLS["classic"])
    print(f"{'':16}" + "".join(f"{METRICS[name].title:>14}" for name in quality.metrics))
    for name, image in {"bicubic": bicubic, "restored": restored}.items():
        values = quality.measure(image, original)
        cells = metric_cells(values, quality.metrics)
        print(f"{name:16}" + "".join(f"{cell:>14}" for cell in cells))
    quality.print_notes()

    result, comparison = output / DEGRADED_PHOTOGRAPH.name, output / "side_by_side.png"
    write_image(result, restored)
    write_image(comparison, np.concatenate([bicubic, restored, original], axis=1))
    print(f"{result}: restored. {comparison}: bicubic, restored, original.")


if __name__ == "__main__":
    run(demo, prog="python -m tvt_jax.demo")
