"""The HTTP example: right answers, clear refusals, and nothing that a request can break for others."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slimtab.serving

HERE = Path(__file__).resolve()
sys.path.append(str(HERE.parents[1] / "serving"))
pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402
from frozen_models import make_dataset, make_frozen  # noqa: E402

ROW = {"age": 31, "price": -2.5, "user": "u7", "site": "s3", "day": "4", "tags": ["t1", "t5"], "words": "w3"}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("serve_example", HERE.parents[2] / "examples" / "serve.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve_example"] = module  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    return make_frozen(make_dataset(folder / "table"), "hash", folder / "frozen")


@pytest.fixture(scope="module")
def client(example, frozen):
    with TestClient(example.create_app(frozen), raise_server_exceptions=False) as client:
        yield client


def test_answers_are_those_of_the_model(client, frozen):
    answer = client.post("/predict", json={"rows": [ROW, ROW | {"user": None}]})
    assert answer.status_code == 200
    want = slimtab.serving.load(frozen).predict([ROW, ROW | {"user": None}])
    assert np.allclose(answer.json()["probabilities"], want, atol=1e-12)


def test_health_says_what_is_served(client):
    answer = client.get("/health").json()
    assert (answer["status"], answer["method"], answer["format"]) == ("ok", "hash", "safetensors")


def test_figures_for_prometheus(client):
    def count(name):
        text = client.get("/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = count("slimtab_rows_total"), count('slimtab_requests_total{status="422"}')
    client.post("/predict", json={"rows": [ROW] * 3})
    client.post("/predict", json={"rows": [{}]})
    client.post("/predict", json={"rows": 1})
    assert count("slimtab_rows_total") == before[0] + 3
    assert count('slimtab_requests_total{status="422"}') == before[1] + 2
    assert count("slimtab_request_seconds_count") > 0


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ('{"rows": [{"age": 3}]}', 422, "row 0 has no column"),
        (json.dumps({"rows": [ROW | {"age": "x"}]}), 422, "column 'age', row 0: 'x' is not a number"),
        (json.dumps({"rows": [ROW | {"age": True}]}), 422, "not a number"),
        ('{"rows": []}', 422, "at least 1 item"),
        (json.dumps({"rows": [{}] * 1025}), 422, "at most 1024 items"),
        (json.dumps({"rows": [ROW], "debug": 1}), 422, "debug: Extra inputs"),
        ('{"rows": NaN}', 422, "rows"),
        ('{"rows": [3]}', 422, "rows.0"),
        ("{", 422, "JSON"),
        ("[]", 422, "body"),
        ("", 422, "body"),
    ],
)
def test_wrong_requests_are_told_why(client, body, status, message):
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert message in answer.json()["detail"]


@pytest.mark.parametrize("announced", [True, False])
def test_large_bodies_are_turned_away(client, example, announced):
    """A header that says so is enough; one that is absent does not help."""
    body = b" " * (example.MAX_BYTES + 1)
    parts = body if announced else iter([body[: 2**20]] * 5)
    answer = client.post("/predict", content=parts, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "send fewer rows" in answer.json()["detail"]


def test_a_wrong_request_does_not_disturb_those_beside_it(example, frozen):
    """They are answered together."""
    app = example.create_app(frozen)

    async def send():
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://slimtab") as client:
                rows = [[ROW] * (n + 1) if n % 5 else [{"age": n}] for n in range(20)]
                return rows, await asyncio.gather(*(client.post("/predict", json={"rows": r}) for r in rows))

    rows, answers = asyncio.run(send())
    for n, (sent, answer) in enumerate(zip(rows, answers, strict=True)):
        assert answer.status_code == (200 if n % 5 else 422)
        assert n % 5 == 0 or len(answer.json()["probabilities"]) == len(sent)


def test_more_requests_than_may_wait(example, frozen, monkeypatch):
    monkeypatch.setattr(example, "MAX_WAITING", 2)
    app = example.create_app(frozen)

    async def send():
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://slimtab") as client:
                return await asyncio.gather(
                    *(client.post("/predict", json={"rows": [ROW]}) for _ in range(30))
                )

    statuses = [answer.status_code for answer in asyncio.run(send())]
    assert set(statuses) == {200, 503}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from([*ROW, "rows"]), inner, max_size=8),
            ),
        ).map(lambda value: json.dumps({"rows": [value]}).encode()),
    )
)
def test_no_body_is_an_error_of_the_server(client, body):
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 422)
