"""A small HTTP server: the bytes of an image file in, a PNG file four times as wide and high out.

    pip install fastapi uvicorn
    MODEL=model python -m uvicorn --app-dir launch serve:app
    curl --data-binary @photo.jpg localhost:8000/upscale --output photo_x4.png

One image is computed at a time. TLS, accounts and slow clients are for the proxy in front of it.
"""

import asyncio
import os

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool

from tvt_jax import Upscaler, UserError
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.images import BadImage, decode_image, encode_png

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 2**20  # of the upload; the result has 16 times as many
MAX_CLIENTS = 8  # the one that is served and those that wait

app = FastAPI(title="tvt_jax")
upscaler = Upscaler.from_folder(os.environ.get("MODEL", SMALL_MODEL))
clients = 0
turn = asyncio.Lock()


@app.post("/upscale", response_class=Response)
async def upscale(request: Request) -> Response:
    """Upscales the image in the body by 4."""
    global clients
    if clients >= MAX_CLIENTS:
        raise HTTPException(503, "too many clients; try again later", {"Retry-After": "10"})
    clients += 1
    try:
        data = await _read(request)
        async with turn:
            return Response(await run_in_threadpool(_upscale, data), media_type="image/png")
    except (BadImage, UserError) as error:
        raise HTTPException(422, f"cannot upscale this: {error}") from error
    finally:
        clients -= 1


async def _read(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise HTTPException(413, f"more than {MAX_BYTES} bytes")
    return bytes(data)


def _upscale(data: bytes) -> bytes:
    pixels = decode_image(data).pixels
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise HTTPException(413, f"more than {MAX_PIXELS} pixels")
    return encode_png(upscaler(pixels))
