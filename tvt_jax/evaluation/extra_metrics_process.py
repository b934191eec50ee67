"""pyiqa's metrics of pairs of images: a job on stdin, values as JSON lines on stdout.

This runs in the user's environment, started by `extra_metrics.py`, so it needs pyiqa and what that
brings, and nothing of tvt_jax. The job is {"metrics": names, "pairs": [[image, reference], ...]};
the answers are {"versions"}, {"metric", "pair", "value"}, {"metric", "error"} and {"error"}.
"""

import importlib.metadata
import json
import math
import os
import sys
import urllib.request


def main() -> None:
    """Measures one metric after the other over all pairs, so that one network is in memory."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # pyiqa prints to stdout

    def answer(**content) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    job = json.load(sys.stdin)
    try:
        refuse_downloads()
        import pyiqa
    except Exception as error:
        answer(error=f"cannot import pyiqa: {in_one_line(error)}")
        return
    answer(versions={name: version(name) for name in ("pyiqa", "torch", "torchvision", "timm")})
    for name in job["metrics"]:
        try:
            measure(pyiqa, name, job["pairs"], answer)
        except Exception as error:
            answer(metric=name, error=in_one_line(error))


def measure(pyiqa, name: str, pairs: list, answer) -> None:
    """Answers with the values of one metric."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    metric = pyiqa.create_metric(name, device=device)
    for index, pair in enumerate(pairs):
        torch.manual_seed(0)  # some metrics draw crops
        with torch.no_grad():
            # New tensors for each call: some metrics change theirs.
            images = [read(path).to(device) for path in pair]
            value = float(metric(*images[: 2 if metric.metric_mode == "FR" else 1]))
        if not math.isfinite(value):
            raise ValueError(f"{pair[0]} has the value {value}")
        answer(metric=name, pair=index, value=value)


def read(path: str):
    """[1, 3, H, W] float32 in [0, 1]."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def refuse_downloads() -> None:
    """Files that are missing are an error with their address, before pyiqa takes the functions."""
    import torch

    def refuse(url, *_, **__):
        raise RuntimeError(f"{getattr(url, 'full_url', url)} is not on this machine")

    torch.hub.download_url_to_file = urllib.request.urlopen = refuse
    try:
        import timm
    except ImportError:
        return
    create_model = timm.create_model

    def without_weights(*arguments, **options):
        # They would be fetched for ImageNet, and the metric's own checkpoint replaces them.
        return create_model(*arguments, **{**options, "pretrained": False})

    timm.create_model = without_weights


def version(package: str) -> str:
    """Of an installed package; "" where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def in_one_line(error: Exception) -> str:
    """The kind of an error and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


if __name__ == "__main__":
    main()
