"""Rendered text and how it is counted."""

import numpy as np
import pytest
from PIL import ImageFont

from tvt_jax.evaluation.legibility import render_pages, text_accuracy, text_fonts
from tvt_jax.evaluation.recogniser import Recogniser, load_recogniser


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    path = tmp_path_factory.mktemp("fonts") / "aileron.ttf"
    path.write_bytes(ImageFont.load_default(20).font_bytes)
    return [str(path)]


def test_pages_have_all_their_ink_in_their_boxes(fonts):
    pages = render_pages(fonts, 4)
    again = render_pages(fonts, 4)
    assert list(pages) == ["text_00", "text_01", "text_02", "text_03"]
    for name, page in pages.items():
        np.testing.assert_array_equal(page.image, again[name].image)
        assert page.image.shape == (512, 512, 3) and page.lines == again[name].lines
        outside = page.image.copy()
        paper = page.image[0, 0]
        for text, (left, top, right, bottom) in page.lines:
            part = page.image[top:bottom, left:right].astype(int)
            assert text and 0 <= left < right <= 512 and 0 <= top < bottom <= 512
            assert (np.abs(part - paper).max(-1) > 50).mean() > 0.05
            outside[top:bottom, left:right] = paper
        assert (outside == paper).all()
    assert len({line.text for page in pages.values() for line in page.lines}) > 30


def test_accuracy_counts_characters(fonts):
    """A reader that knows the page makes known mistakes."""
    pages = render_pages(fonts, 1)
    lines = pages["text_00"].lines
    images = {"text_00": pages["text_00"].image}
    total = sum(len(line.text.replace(" ", "")) for line in lines)

    def reader(change):
        texts = iter([line.text for line in lines])
        return Recogniser("x", lambda image, language: change(next(texts)))

    assert text_accuracy(pages, images, reader(lambda text: text.replace(" ", ""))) == 1
    assert text_accuracy(pages, images, reader(lambda text: "")) == 0
    assert text_accuracy(pages, images, reader(lambda text: "?" * 200)) == 0
    got = text_accuracy(pages, images, reader(lambda text: text[1:]))
    assert abs(got - (1 - len(lines) / total)) < 1e-12


def test_the_reader_sees_each_line(fonts):
    pages = render_pages(fonts, 1)
    seen = []
    recogniser = Recogniser("x", lambda image, language: seen.append(image) or "")
    text_accuracy(pages, {"text_00": pages["text_00"].image}, recogniser)
    for image, line in zip(seen, pages["text_00"].lines, strict=True):
        left, top, right, bottom = line.box
        assert image.shape[0] >= bottom - top and image.shape[1] >= right - left


@pytest.mark.slow  # needs RapidOCR and a wheel of matplotlib
def test_sharp_text_is_read():
    pytest.importorskip("rapidocr")
    pages = render_pages(text_fonts(), 2)
    images = {name: page.image for name, page in pages.items()}
    assert text_accuracy(pages, images, load_recogniser()) > 0.97
