"""The example of an HTTP server in `launch/`, with something quick in the place of the model."""

import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tvt_jax.errors import UserError
from tvt_jax.images import decode_image, encode_png

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
PNG = encode_png(IMAGE)


def enlarged(image):
    return image.repeat(4, 0).repeat(4, 1)


@pytest.fixture(scope="module")
def serve():
    path = Path(__file__).parent.parent / "launch" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(serve, monkeypatch):
    monkeypatch.setattr(serve, "upscaler", enlarged)
    with TestClient(serve.app) as client:
        yield client
    assert serve.clients == 0


def test_an_upload_comes_back_enlarged(client):
    answer = client.post("/upscale", content=PNG)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(decode_image(answer.content).pixels, enlarged(IMAGE))


def test_a_file_that_is_no_image_is_refused(client):
    answer = client.post("/upscale", content=b"text")
    assert answer.status_code == 422
    assert answer.json() == {"detail": "cannot upscale this: unknown format or damaged"}


def test_what_is_too_large_is_refused(client, serve, monkeypatch):
    monkeypatch.setattr(serve, "MAX_PIXELS", 34)
    answer = client.post("/upscale", content=PNG)
    assert answer.status_code == 413 and answer.json() == {"detail": "more than 34 pixels"}
    monkeypatch.setattr(serve, "MAX_BYTES", 34)
    answer = client.post("/upscale", content=PNG)
    assert answer.status_code == 413 and answer.json() == {"detail": "more than 34 bytes"}


def test_what_the_model_refuses_is_told(client, serve, monkeypatch):
    def refuse(image):
        raise UserError("an image of 28x20 px needs 2 GiB of memory and 1 GiB are free.")

    monkeypatch.setattr(serve, "upscaler", refuse)
    answer = client.post("/upscale", content=PNG)
    assert answer.status_code == 422 and "1 GiB are free" in answer.json()["detail"]


def test_clients_take_turns_and_too_many_are_sent_away(client, serve, monkeypatch):
    started, go_on, at_once = threading.Event(), threading.Event(), threading.Semaphore(1)

    def slow(image):
        assert at_once.acquire(blocking=False), "two images at once"
        started.set()
        assert go_on.wait(60)
        at_once.release()
        return enlarged(image)

    monkeypatch.setattr(serve, "upscaler", slow)
    monkeypatch.setattr(serve, "MAX_CLIENTS", 2)
    with ThreadPoolExecutor(2) as pool:
        other = encode_png(255 - IMAGE)
        answers = [pool.submit(client.post, "/upscale", content=data) for data in (PNG, other)]
        assert started.wait(60)
        while serve.clients < 2:
            pass
        refused = client.post("/upscale", content=PNG)
        go_on.set()
    assert refused.status_code == 503 and refused.headers["retry-after"] == "10"
    for answer, image in zip(answers, (IMAGE, 255 - IMAGE), strict=True):
        pixels = decode_image(answer.result().content).pixels
        np.testing.assert_array_equal(pixels, enlarged(image))
    assert client.post("/upscale", content=PNG).status_code == 200
