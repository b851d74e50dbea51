"""Serve an exported model over HTTP: rows in, probabilities out, figures for Prometheus.

    slimtab export runs/u10 --format onnx
    python examples/serve.py runs/u10/export/onnx --port 8000
    curl -s localhost:8000/predict -H 'content-type: application/json' -d '{"rows": [{"I1": 1, …}]}'

Needs ``pip install 'slimtab[serve]'``. Requests that wait are answered together: a call of the model costs
about as much for one row as for thirty.
"""

import argparse
import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import slimtab.serving
from slimtab.errors import SlimtabError, one_line_errors
from slimtab.serving.predictor import Predictor

MAX_ROWS = 1024  # of a request, and of what is answered together
MAX_BYTES = 4 * 2**20  # of a request's body
MAX_WAITING = 1024  # requests; more are turned away, for their callers would only wait


class Request(BaseModel):
    """Raw rows: each an object from column to cell. A missing cell is null."""

    model_config = ConfigDict(extra="forbid")
    rows: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_ROWS)]


class Answer(BaseModel):
    """A probability for each row, in order."""

    probabilities: list[float]


class Batcher:
    """Predicts for all requests that wait, at once, in a thread beside the event loop."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.waiting: asyncio.Queue[tuple[list[dict[str, Any]], asyncio.Future[list[float]]]] = asyncio.Queue(
            MAX_WAITING
        )

    async def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        """Wait for the probabilities of some rows; a queue that is full raises."""
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((rows, answer))
        return await answer

    async def work(self) -> None:
        """Answer, for ever."""
        while True:
            taken = [await self.waiting.get()]
            while not self.waiting.empty() and sum(len(rows) for rows, _ in taken) < MAX_ROWS:
                taken.append(self.waiting.get_nowait())
            try:
                found = await asyncio.to_thread(self._together, [rows for rows, _ in taken])
            except Exception as error:  # no request may wait for ever
                found = [error] * len(taken)
            for (_, answer), result in zip(taken, found, strict=True):
                if answer.done():  # its caller has gone
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _together(self, requests: list[list[dict[str, Any]]]) -> list[list[float] | Exception]:
        try:
            whole = self.predictor.predict([row for rows in requests for row in rows]).tolist()
        except SlimtabError as error:
            if len(requests) == 1:
                return [error]
            return [self._together([rows])[0] for rows in requests]  # one is at fault, the others are not
        parts, start = [], 0
        for rows in requests:
            parts.append(whole[start : start + len(rows)])
            start += len(rows)
        return parts


class BodyLimit:
    """Turns a body away as soon as it proves too large, whatever its header says."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        body, more = b"", not announced.isdigit() or int(announced) <= MAX_BYTES
        too_large = not more
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the caller has gone
                return
            body += message.get("body", b"")
            too_large = len(body) > MAX_BYTES
            more = message.get("more_body", False) and not too_large
        if too_large:
            text = f"a request may hold {MAX_BYTES} bytes; send fewer rows at a time"
            response = Response(f'{{"detail": "{text}"}}', 413, media_type="application/json")
            await response(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, again, send)


def create_app(folder: Path) -> FastAPI:
    """Return the service of one exported model."""
    batcher = Batcher(slimtab.serving.load(folder))
    card = batcher.predictor.card
    registry = CollectorRegistry()
    requests = Counter("slimtab_requests", "Requests to /predict", ["status"], registry=registry)
    rows_served = Counter("slimtab_rows", "Rows predicted", registry=registry)
    seconds = Histogram(
        "slimtab_request_seconds", "Time of a request to /predict, waiting included", registry=registry
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(title="slimtab", lifespan=lifespan)
    app.add_middleware(BodyLimit)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: HTTPRequest, error: RequestValidationError) -> JSONResponse:
        """Say what is wrong without sending the rows back, which may be no JSON either."""
        requests.labels("422").inc()
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return JSONResponse({"detail": f"{where}: {first['msg']}"}, 422)

    @app.post("/predict")
    async def predict(request: Request) -> Answer:
        began = time.perf_counter()
        try:
            found = await batcher.predict(request.rows)
        except SlimtabError as error:
            requests.labels("422").inc()
            raise HTTPException(422, str(error)) from error
        except asyncio.QueueFull as error:
            requests.labels("503").inc()
            raise HTTPException(503, "too many requests are waiting; try again later") from error
        requests.labels("200").inc()
        rows_served.inc(len(found))
        seconds.observe(time.perf_counter() - began)
        return Answer(probabilities=found)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        names = ("method", "model", "format", "serve_bytes", "schema_fingerprint")
        return {"status": "ok", **{name: card.get(name) for name in names}}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `slimtab export` wrote, or the frozen/ of a run")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    one_line_errors()
    # Longer than clients keep a connection they do not use: closed under a request, it would be an error.
    app = create_app(args.folder)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_keep_alive=75)
