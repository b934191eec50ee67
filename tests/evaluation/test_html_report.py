"""The page of a report: what is in it, and how it behaves in a browser."""

import base64
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tvt_jax.evaluation.html_report import write_html

METHODS = ("bicubic", "model <1>")
REFERENCE, INPUT = "reference (HR)", "input (LR)"
LARGE = "large & <b>"


@pytest.fixture(scope="module")
def pixels():
    """By method and name: noise around references, strongest in one corner of the large image."""
    rng = np.random.default_rng(0)
    references = {
        LARGE: rng.integers(0, 200, (400, 320, 3), np.uint8),
        "small": rng.integers(0, 200, (64, 96, 3), np.uint8),
        "middling": rng.integers(0, 200, (64, 64, 3), np.uint8),
    }
    found = {REFERENCE: references}
    for number, method in enumerate(METHODS):
        found[method] = {n: image + np.uint8(number) for n, image in references.items()}
        found[method][LARGE][144:, 64:] += np.uint8(30 + number)
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory, pixels):
    """The report of two methods."""
    folder = tmp_path_factory.mktemp("page")
    files = {}
    for number, (label, images) in enumerate(pixels.items()):
        files[label] = {}
        for name, image in images.items():
            file = folder / f"{number}-{len(files[label])}.png"
            Image.fromarray(image).save(file)
            files[label][name] = file
    low = {}
    for number, (name, image) in enumerate(pixels[REFERENCE].items()):
        low[name] = folder / f"low-{number}.png"
        Image.fromarray(image[::4, ::4]).save(low[name])
    methods = [
        {
            "name": method,
            "images": [
                {"name": LARGE, "psnr": 30.0, "dists": 0.5},
                {"name": "small", "psnr": 20.0, "dists": dists},
                {"name": "middling", "psnr": 25.0, "dists": 0.7},
            ],
        }
        for method, dists in zip(METHODS, (None, 0.8), strict=True)
    ]
    table = "| method | PSNR ↑ |\n|---|---|\n| bicubic | 25.00 |\n| model <1> | 25.00 |\n\nA line."
    references = files.pop(REFERENCE)
    write_html(folder / "out" / "report.html", table, methods, files, references, low)
    return folder / "out" / "report.html"


class Outline(html.parser.HTMLParser):
    """Checks that elements close, and collects addresses, names and anchors."""

    VOID = ("meta", "input", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.anchors, self.links, self.names, self.outside = [], set(), set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        if "data-name" in attributes:
            self.names.append(attributes["data-name"])
        self.links |= {attributes["href"]} if "href" in attributes else set()
        self.outside += [v for k, v in attributes.items() if k in ("src", "srcset")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def crops(text):
    found = re.search(r'<script type="application/json" id="crops">(.*?)</script>', text)[1]
    return json.loads(found)


def decoded(url):
    data = url.removeprefix("data:image/webp;base64,")
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_page_holds_everything(page, pixels):
    text = page.read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == [] and outline.outside == [] and "http" not in text
    # "middling" has the worst DISTS of the first method only.
    assert outline.names == [LARGE, "small", "middling"]
    assert {link.removeprefix("#") for link in outline.links} <= outline.anchors
    assert "<td>model &lt;1&gt;</td><td>25.00</td>" in text and "<p>A line.</p>" in text
    found = crops(text)
    assert list(found) == outline.names
    assert set(found["small"]) == {REFERENCE, *METHODS, INPUT}


def test_crops_lie_where_the_error_is_largest(page, pixels):
    """Lossless, at one place for all; the low resolution is enlarged to their size."""
    found = crops(page.read_text(encoding="utf-8"))[LARGE]
    for label, images in pixels.items():
        np.testing.assert_array_equal(decoded(found[label]), images[LARGE][144:, 64:])
    low = decoded(found[INPUT])
    np.testing.assert_array_equal(low[::4, ::4], pixels[REFERENCE][LARGE][144::4, 64::4])
    small = crops(page.read_text(encoding="utf-8"))["small"]
    np.testing.assert_array_equal(decoded(small[REFERENCE]), pixels[REFERENCE]["small"])


def test_best_and_worst_by_each_metric(page):
    text = page.read_text(encoding="utf-8")
    table = text[text.index("Best and worst") :].split("</table>")[0]
    rows = re.findall(r"<tr><td>(.*?)</td></tr>", table)
    cells = [re.sub("<a[^>]*>|</a>", "", row).split("</td><td>") for row in rows]
    assert cells[0] == ["bicubic", "PSNR ↑", "large &amp; &lt;b&gt; 30.00", "small 20.00"]
    assert cells[1] == ["bicubic", "DISTS ↓", "large &amp; &lt;b&gt; 0.5000", "middling 0.7000"]
    assert cells[2][1] == "PSNR ↑"
    assert cells[3] == [
        "model &lt;1&gt;",
        "DISTS ↓",
        "large &amp; &lt;b&gt; 0.5000",
        "small 0.8000",
    ]


@pytest.mark.slow  # needs playwright, and Chromium of the system
def test_slider_and_differences_in_a_browser(page, pixels, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    browser_file = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_file is None:
        pytest.skip("no Chromium")
    reference, model = (pixels[label][LARGE][144:, 64:] for label in (REFERENCE, METHODS[1]))
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text))
        tab.goto(page.as_uri())
        section = tab.locator(".image").first
        frame = section.locator(".frame")
        # To whole pixels of the screen, beside the controls.
        frame.evaluate(
            "f => Object.assign(f.style, {position: 'fixed', top: '0px', left: '640px'})"
        )

        def shot():
            """One pixel of the screen for each of the crop, which is shown at twice its size."""
            image = np.array(Image.open(io.BytesIO(frame.screenshot())).convert("RGB"))
            assert image.shape == (512, 512, 3)
            return image[::2, ::2]

        # The last method at the left of the middle, the reference at its right.
        seen = shot()
        np.testing.assert_array_equal(seen[:, :126], model[:, :126])
        np.testing.assert_array_equal(seen[:, 130:], reference[:, 130:])
        section.locator(".slider").evaluate(
            "s => { s.value = 25; s.dispatchEvent(new Event('input')); }"
        )
        seen = shot()
        np.testing.assert_array_equal(seen[:, :62], model[:, :62])
        np.testing.assert_array_equal(seen[:, 66:], reference[:, 66:])
        section.locator("select.left").select_option(METHODS[0])
        bicubic = pixels[METHODS[0]][LARGE][144:, 64:]
        np.testing.assert_array_equal(shot()[:, :62], bicubic[:, :62])
        section.locator("input.difference").check()
        wanted = 4 * np.abs(bicubic.astype(int) - reference)
        np.testing.assert_allclose(shot(), np.clip(wanted, 0, 255), atol=4)
        section.locator("input.difference").uncheck()
        np.testing.assert_array_equal(shot()[:, 66:], reference[:, 66:])
        tab.locator("a", has_text="small").first.click()
        assert "#image-" in tab.url and not errors
        browser.close()
