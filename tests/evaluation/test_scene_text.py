"""`evaluate text` on a made Real-CE: rendered pages at three focal lengths, GBK annotations."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.metrics.test_golden import VALUES
from tvt_jax import evaluate
from tvt_jax.errors import UserError
from tvt_jax.evaluation import quality, recogniser, text_report
from tvt_jax.evaluation.paper_tables import TABLE3
from tvt_jax.evaluation.protocol import PROTOCOLS
from tvt_jax.evaluation.recogniser import Recogniser
from tvt_jax.evaluation.scene_text import (
    TextLine,
    compare_reading,
    cut_line,
    edit_distance,
    read_lines,
    reading_scores,
    write_realce,
)
from tvt_jax.images import read_image

TEXTS = ("Harbour, 1492", "Ticket office", "欢迎光临, 24")


def rectangle(x, y, width, height, angle):
    """Corners of a turned rectangle around (x, y), from its upper left, clockwise."""
    turn = np.deg2rad(angle)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    return np.array(
        [
            [x, y] + a * width / 2 * along + b * height / 2 * across
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
    )


def line_image(text, width=200, height=36):
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((6, 4), text, font=ImageFont.load_default(24), fill="black")
    return np.array(image)


def paste(page, line, corners):
    height, width = line.shape[:2]
    source = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    options = {"borderMode": cv2.BORDER_TRANSPARENT, "flags": cv2.INTER_CUBIC}
    cv2.warpPerspective(line, matrix, page.shape[1::-1], page, **options)


def write_realce_set(folder, scenes=2):
    """`val` with scenes of 290x262 px, two Latin lines (tilted) and a Chinese one without ink."""
    for part in ("13mm", "52mm", "annos"):
        (folder / "val" / part).mkdir(parents=True)
    names = []
    for scene in range(scenes):
        page, rows = np.full((262, 290, 3), 200, np.uint8), []
        for n, text in enumerate(TEXTS):
            corners = rectangle(145, 50 + 75 * n, 200, 36, (10, -12, 0)[n] * (1 - 2 * scene))
            paste(page, line_image(text if n < 2 else ""), corners)
            numbers = ",".join(f"{v:.0f}" for v in corners.ravel())
            rows.append(f"{numbers},{text}")
        name = f"{scene:04}"
        Image.fromarray(page).save(folder / "val" / "52mm" / f"{name}.JPG", quality=98)
        far = cv2.GaussianBlur(page, (0, 0), 5.0)
        Image.fromarray(far).save(folder / "val" / "13mm" / f"{name}.JPG", quality=98)
        annotation = folder / "val" / "annos" / f"{name}.txt"
        annotation.write_bytes(("\r\n".join(rows) + "\r\n").encode("gbk"))
        names.append(f"{name}.JPG")
    (folder / "val" / "valid_list.txt").write_text("\n".join(names) + "\n")
    # An image that is not listed does not count.
    Image.new("RGB", (8, 8)).save(folder / "val" / "52mm" / "9999.JPG")
    return folder


@pytest.fixture
def realce(tmp_path):
    return write_realce_set(tmp_path / "RealCE")


@pytest.mark.parametrize("case", VALUES["text_cases"]["cases"])
def test_scores_of_a_line(case):
    """The cases that the facts about Real-CE were written down with."""
    read, truth, distance, ned, exact = case
    assert edit_distance(read, truth) == edit_distance(truth, read) == distance
    reading = compare_reading(TextLine(np.zeros((4, 2)), truth), read)
    assert (reading.ned, reading.exact) == (ned, exact)


def test_what_counts_of_a_text():
    english, chinese = (TextLine(np.zeros((4, 2)), t) for t in ("Café No. 7", "欢迎 A-1"))
    assert (english.language, chinese.language) == ("ENG", "CHN")
    assert compare_reading(english, "CAF no7!").exact
    assert (
        compare_reading(chinese, "欢迎a-1").exact and not compare_reading(chinese, "欢迎a1").exact
    )
    # As the authors count: characters that they know, and capitals only in the truth's favour.
    known = frozenset("欢迎a1A")
    assert compare_reading(chinese, "欢迎a1", known).exact
    assert not compare_reading(chinese, "欢迎A1", known).exact
    assert compare_reading(english, "CAFNO7", known).exact
    scores = reading_scores([compare_reading(english, "cafno7"), compare_reading(chinese, "欢迎")])
    assert (scores["acc"], scores["acc-eng"], scores["acc-chn"]) == (0.5, 1.0, 0.0)
    assert scores["ned-chn"] == pytest.approx(0.4) and scores["lines"] == 2
    assert reading_scores([])["ned"] is None


def similarity(a, b):
    """Correlation of two images, blurred."""
    a, b = (cv2.GaussianBlur(x.astype(float), (0, 0), 2).ravel() for x in (a, b))
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("angle", [-44, -30, -10, -3, 0, 3, 10, 30, 44])
def test_tilted_lines_are_cut_level(angle):
    """By all versions of OpenCV, whichever angle its smallest rectangle has."""
    line = line_image("Harbour 1492")
    page, corners = np.full((300, 300, 3), 255, np.uint8), rectangle(150, 150, 200, 36, angle)
    paste(page, line, corners)
    for order in range(4):  # where the annotation begins does not matter
        cut = cut_line(page, np.roll(corners, order, axis=0))
        assert abs(cut.shape[0] - 36) <= 2 and abs(cut.shape[1] - 200) <= 2
        # Upside down it is 0.2, shifted by a third of a letter 0.7.
        assert similarity(cv2.resize(cut, (200, 36)), line) > 0.97


def test_annotations(realce, tmp_path):
    lines = read_lines(realce / "val" / "annos" / "0000.txt")
    assert [line.text for line in lines] == list(TEXTS)
    assert lines[0].corners.shape == (4, 2)
    bad = tmp_path / "bad.txt"
    for text in ("1,2,3,4,5,6,7,8", "1,2,3,4,5,6,7,x,text"):
        bad.write_text(f"\n{text}\n")
        with pytest.raises(UserError, match="bad.txt, line 2: not eight numbers and a text"):
            read_lines(bad)


def test_the_data_set_as_its_loader_makes_it(realce, tmp_path):
    dataset, lines = write_realce(realce, tmp_path / "out")
    assert list(dataset.high) == list(dataset.low) == list(lines) == ["0000", "0001"]
    high, low = read_image(dataset.high["0000"]), read_image(dataset.low["0000"])
    assert high.shape == (260, 288, 3) and low.shape == (65, 72, 3)
    np.testing.assert_array_equal(
        high, read_image(realce / "val" / "52mm" / "0000.JPG")[:260, :288]
    )
    far = read_image(realce / "val" / "13mm" / "0000.JPG").astype(np.float32)
    small = cv2.resize(far, (72, 65), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(low, np.clip(np.rint(small), 0, 255))


def test_faults_are_one_line(realce, tmp_path):
    val = realce / "val"
    Image.new("RGB", (280, 262)).save(val / "13mm" / "0001.JPG")
    with pytest.raises(UserError, match="0001.JPG is 280x262 px and .* is 290x262; both"):
        write_realce(realce, tmp_path / "out")
    (val / "annos" / "0000.txt").unlink()
    with pytest.raises(UserError, match="annos/0000.txt does not exist"):
        write_realce(val, tmp_path / "out")
    (val / "valid_list.txt").unlink()
    with pytest.raises(UserError, match="valid_list.txt does not exist"):
        write_realce(val, tmp_path / "out")


def test_without_the_recogniser(realce, monkeypatch):
    monkeypatch.setattr(recogniser.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs rapidocr and onnxruntime, .*rapidocr==3.10.0"):
        evaluate.text(realce)
    with pytest.raises(UserError, match="`crnn` needs PyTorch"):
        evaluate.text(realce, crnn=realce)


def test_the_command(realce, tmp_path, monkeypatch, capsys):
    """With a reader that always sees the same line."""
    reader = Recogniser("x 1", lambda image, language: "TICKET office")
    monkeypatch.setattr(text_report, "load_recogniser", lambda crnn: reader)
    monkeypatch.setattr(quality, "load_lpips", lambda net: _missing(net))
    evaluate.text(realce, output=tmp_path / "out", quiet=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (row,) = report["methods"]
    assert row["scores"] == report["original"]
    assert row["scores"]["acc"] == pytest.approx(1 / 3) and row["scores"]["acc-eng"] == 0.5
    assert report["recogniser"] == "x 1" and report["protocol"]["name"] == "realce"
    restored = read_image(tmp_path / "out" / "bicubic" / "0001.png")
    high = read_image(tmp_path / "out" / "hr" / "0001.png")
    assert row["images"][1]["psnr"] == PROTOCOLS["realce"].psnr(restored, high)
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "report.md").read_text() == printed
    assert len((tmp_path / "out" / "report.csv").read_text().splitlines()) == 1 + 2
    table = printed.splitlines()
    assert table[0].startswith("| method | PSNR ↑ | SSIM ↑ | LPIPS-Alex ↓ | ACC ↑ | NED ↑ |")
    assert len([line for line in table if "(paper)" in line]) == len(TABLE3) == 10
    assert any(
        line.startswith("| TVT (paper) | 19.69 | 0.7030 | 0.1644 | 0.3096 |") for line in table
    )
    assert "6 lines (2 Chinese, 4 English), read by x 1" in table[-2]


def _missing(net):
    raise UserError(f"{net} is not there.")


@pytest.mark.slow  # needs rapidocr 3.10 and onnxruntime
def test_clean_pages_read_right_and_blurred_ones_worse(realce):
    pytest.importorskip("rapidocr")
    report = text_report.evaluate_text(realce, ["bicubic"], quiet=True)
    assert report["original"]["acc-eng"] == 1
    assert report["methods"][0]["scores"]["ned-eng"] < 0.9
    assert report["recogniser"].startswith("rapidocr 3")
