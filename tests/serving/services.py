"""Requests to a service in this process, and what they contain."""

import asyncio
import io
import threading

import httpx
import numpy as np
import pytest
from PIL import Image

from dltrain.commands.predict import Prediction, Predictor

CODES = ["00501", "501", "9007199254740993", "9007199254740992", "1.5"]


def send(app, *requests: dict) -> list[httpx.Response]:
    """Sends requests concurrently: POST to /predict by default."""

    async def send_all():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
        ):
            return await asyncio.gather(
                *(
                    client.request(**{"method": "POST", "url": "/predict"} | request)
                    for request in requests
                )
            )

    return asyncio.run(asyncio.wait_for(send_all(), 60))


def get(app, path: str, **options) -> httpx.Response:
    return send(app, {"method": "GET", "url": path, **options})[0]


def predictions(response: httpx.Response) -> list[Prediction]:
    assert response.status_code == 200, response.text
    return [Prediction(**item) for item in response.json()["predictions"]]


def assert_same(predicted: list[Prediction], expected: list[Prediction]) -> None:
    """Compares predictions, apart from names and from rounding, which depends on the batch."""
    assert len(predicted) == len(expected)
    for one, other in zip(predicted, expected, strict=True):
        assert (one.label, one.text) == (other.label, other.text)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        if other.values is None:
            assert one.values is None
        else:
            assert one.values == pytest.approx(other.values, rel=1e-5)


def random_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def blank(*size: int) -> bytes:
    """An image whose file is much smaller than its pixels."""
    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    return file.getvalue()


async def later(content: bytes, seconds: float):
    yield content[:10]
    await asyncio.sleep(seconds)
    yield content[10:]


class UnreliableModel:
    """A model that fails for samples of one name, and can be made to wait."""

    def __init__(self, like: Predictor) -> None:
        self.spec, self.gives = like.spec, like.gives
        self.unblocked = threading.Event()
        self.unblocked.set()

    def of_tensor(self, inputs, names):
        self.unblocked.wait(30)
        if "bad.png" in names:
            raise RuntimeError("secret")
        return [Prediction(name, label="0", probabilities={}) for name in names]


def upload(name: str = "good.png") -> dict:
    return {"files": [("files", (name, png(random_image((8, 8)))))]}
