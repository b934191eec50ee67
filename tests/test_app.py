"""The page in headless Chromium: `make test-app` runs this, in an environment with gradio."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PHOTOGRAPH = ROOT / "tvt_jax/assets/photographs/degraded/handwriting_lined_paper.png"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
SECONDS = 240  # for a compilation on a busy machine

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def address():
    """Of a running page with the bundled model, which takes 0.1 megapixels."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tvt_jax.app", "--port", str(port), "--max-megapixels", "0.1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert "the page is at" in server.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextlib.contextmanager
def visit(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page.set_default_timeout(SECONDS * 1000)
    page.goto(address)
    page.get_by_role("button", name="Upscale").wait_for()
    yield page
    page.close()


def upload(page, path):
    page.locator("input[type=file]").first.set_input_files(str(path))
    page.get_by_text(path.name[:6]).first.wait_for()
    page.get_by_role("button", name="Upscale").click()


def result(page):
    """(the downloaded image, the name that it was given)."""
    link = page.locator("a[download*='_upscaled']").first
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    data = Path(download.value.path()).read_bytes()  # Chromium removes it with the page
    return Image.open(io.BytesIO(data)), download.value.suggested_filename


def photo(path, side=64, **options):
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((side, side))
    image.save(path, **options)
    return path


def test_upload_compare_download(browser, address, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    source = photo(tmp_path / "letter.jpg", exif=exif, quality=90)
    with visit(browser, address) as page:
        upload(page, source)
        image, name = result(page)
        page.get_by_text("256 x 256 px").wait_for()
        assert page.locator("img").count() >= 2  # of the slider
        if "SCREENSHOT" in os.environ:
            page.screenshot(path=os.environ["SCREENSHOT"])
    assert name == "letter_upscaled.jpg"
    assert (image.format, image.size) == ("JPEG", (256, 256))
    assert image.getexif()[0x010F] == "a camera"
    small = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX), float)
    given = np.asarray(Image.open(source).convert("RGB"), float)
    assert np.abs(small - given).mean() < 12  # the same subject


def test_what_cannot_be_done_is_said(browser, address, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with visit(browser, address) as page:
        page.get_by_role("button", name="Upscale").click()
        page.get_by_text("Choose a photograph first.").wait_for()
        upload(page, tmp_path / "broken.png")
        page.get_by_text("not an image that can be read").wait_for()
    with visit(browser, address) as page:
        upload(page, photo(tmp_path / "larger.png", 400))
        page.get_by_text("this page takes 0.1 megapixels").wait_for()


def test_two_visitors_at_once(browser, address, tmp_path):
    first, second = photo(tmp_path / "first.png"), photo(tmp_path / "second.webp", 48)
    with visit(browser, address) as one, visit(browser, address) as other:
        upload(one, first)
        upload(other, second)
        results = [result(one), result(other)]
    assert [name for _, name in results] == ["first_upscaled.png", "second_upscaled.webp"]
    assert [image.size for image, _ in results] == [(256, 256), (192, 192)]


def test_files_of_the_server_are_not_readable(address):
    for path in ("/etc/passwd", ROOT / "README.md", PHOTOGRAPH):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}/gradio_api/file={path}")
