"""`python -m tvt_jax.app`: a page in the browser that upscales photographs.

Needs `pip install .[app]`. Only this machine sees the page unless --host says otherwise.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Literal, get_args

from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.cli import run
from tvt_jax.errors import UserError

_KEPT_SECONDS, _PREVIEW_SIDE = 3600, 2048  # of results on the server; of the slider's images, px


def app(
    model: Path = SMALL_MODEL,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    max_megapixels: float = 4.0,
    max_upload_mb: int = 32,
    max_waiting: int = 8,
) -> None:
    """Serve a page that upscales photographs: upload, compare, download in the input's format.

    Args:
        model: model folder, or owner/name of one on Hugging Face. Default: the small bundled model.
        dtype: precision of the networks; see `python -m tvt_jax.infer --help`.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on.
        max_megapixels: refuse larger uploads; the result has up to 64 times as many.
        max_upload_mb: refuse larger files.
        max_waiting: visitors in the queue; one image is computed at a time.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no reports about visitors
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs gradio: pip install .[app]") from error
    from tvt_jax.inference.upscaler import Upscaler

    page = make_page(gradio, Upscaler.from_folder(model, dtype), max_megapixels)
    page.queue(max_size=max_waiting, default_concurrency_limit=1)
    try:
        page.launch(
            server_name=host, server_port=port, max_file_size=max_upload_mb * 2**20, quiet=True,
            prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"port {port} of {host} cannot be used ({error}); try --port.") from error
    print(f"the page is at http://{host}:{port}; Ctrl-C ends it", flush=True)
    page.block_thread()


def make_page(gradio, upscaler, max_megapixels: float):
    """The page as gradio's `Blocks`."""
    from tvt_jax.images.formats import Encoding
    from tvt_jax.inference.options import MAX_SCALE, ColorFix, RestorationOptions

    results = Path(tempfile.mkdtemp(prefix="tvt_jax_"))

    def upscale(path, scale, color_fix, blend, prompt, strip, progress=gradio.Progress()):  # noqa: B008
        if path is None:
            raise gradio.Error("Choose a photograph first.")
        source = Path(path)
        _check_size(gradio, source, max_megapixels)
        _remove_old(results)
        progress(0.1, "restoring; the first image of a size takes longer")
        target = Path(tempfile.mkdtemp(dir=results)) / _target_name(source)
        try:
            chosen = dict(scale=scale, color_fix=color_fix, blend=blend, prompt=prompt or None)
            options = RestorationOptions(**chosen)
            written = upscaler.upscale_file(source, target, options, Encoding(strip_metadata=strip))
        except UserError as error:
            raise gradio.Error(str(error).replace(str(source), source.name)) from error
        tags = [f"tags: {', '.join(written.tags)}"] if written.tags else []
        lines = [f"{written.size[0]} x {written.size[1]} px", *written.notes, *tags]
        return _previews(source, target), str(target), "\n\n".join(lines)

    with gradio.Blocks(title="tvt_jax", delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)) as page:
        gradio.Markdown("# tvt_jax\nReal-world image super-resolution that keeps fine structure.")
        with gradio.Row():
            with gradio.Column(scale=1):
                image = gradio.File(label="Photograph", file_types=["image"], type="filepath")
                scale = gradio.Slider(1, MAX_SCALE, 4, step=0.5, label="Scale (made for 4)")
                color_fix = gradio.Radio(get_args(ColorFix), value="adain", label="Colours")
                blend = gradio.Slider(0, 1, 0, step=0.05, label="Share of the enlarged input")
                prompt = gradio.Textbox(label="Prompt", visible=upscaler.takes_prompts)
                strip = gradio.Checkbox(label="Leave out metadata (place, date, camera)")
                button = gradio.Button("Upscale", variant="primary")
            with gradio.Column(scale=2):
                slider = gradio.ImageSlider(label="Bicubic and restored", interactive=False)
                download = gradio.File(label="Download", interactive=False)
                notes = gradio.Markdown()
        button.click(
            upscale,
            [image, scale, color_fix, blend, prompt, strip],
            [slider, download, notes],
            api_visibility="private",
        )
    return page


def _check_size(gradio, path: Path, max_megapixels: float) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception as error:  # Pillow's readers raise many kinds
        raise gradio.Error("This is not an image that can be read.") from error
    if width * height > max_megapixels * 1e6:
        raise gradio.Error(
            f"{width} x {height} px are too many: this page takes {max_megapixels:g} megapixels."
        )


def _target_name(source: Path) -> str:
    from tvt_jax.images.formats import writable_suffixes

    suffix = source.suffix.lower() if source.suffix.lower() in writable_suffixes() else ".png"
    return f"{source.stem}_upscaled{suffix}"


def _previews(source: Path, target: Path):
    """(bicubic enlargement, result) as the slider shows them."""
    from PIL import Image

    from tvt_jax.images import read_image

    after = Image.fromarray(read_image(target))
    after.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    before = Image.fromarray(read_image(source)).resize(after.size, Image.Resampling.BICUBIC)
    return before, after


def _remove_old(results: Path) -> None:
    for folder in results.iterdir():
        if time.time() - folder.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(app, prog="python -m tvt_jax.app")
