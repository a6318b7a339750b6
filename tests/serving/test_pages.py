"""Pages, the OpenAPI description, metrics and the health of a service."""

import re

import pytest
from openapi_spec_validator import validate
from services import get, predictions, send

from dltrain.commands.predict import Prediction
from dltrain.errors import visible
from dltrain.serving.app import make_app
from dltrain.serving.limits import Limits
from dltrain.serving.metrics import Metrics
from dltrain.serving.pages import ModelInfo, demo_page
from dltrain.spec import Column, DataSpec, TableInputs


def test_metrics_count_requests(service):
    metrics = Metrics()
    app = service("texts", metrics=metrics)
    send(app, {"json": {"texts": ["a", "b"]}}, {"json": {}}, {"url": "/a"}, {"url": "/b"})
    response = get(service("texts", metrics=metrics), "/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    for line in (
        'dltrain_requests_total{path="/predict",status="200"} 1.0',
        'dltrain_requests_total{path="/predict",status="422"} 1.0',
        'dltrain_requests_total{path="other",status="404"} 2.0',
        'dltrain_request_seconds_count{path="/predict"} 2.0',
        "dltrain_batch_size_sum 2.0",
    ):
        assert line in lines


@pytest.mark.parametrize("run", ["images", "texts", "rows"])
def test_the_openapi_description_is_valid_and_its_example_is_answered(service, run):
    app = service(run)
    description = get(app, "/openapi.json").json()
    validate(description)
    body = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    (response,) = send(service(run), {"json": body["application/json"]["example"]})
    assert len(predictions(response)) == 1
    page = get(service(run), "/docs")
    assert "curl http://127.0.0.1:8000/predict --json" in page.text


@pytest.mark.parametrize("path", ["/", "/docs", "/static/demo.js", "/static/demo.css"])
def test_pages_load_no_external_resources(service, path):
    response = get(service("rows"), path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "//" not in response.text.replace("http://127.0.0.1:8000", "").replace("// ", "")


class FirstClassModel:
    """A model that always predicts the first class."""

    gives = "label"

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    def of_tensor(self, inputs, names):
        first, *others = self.spec.class_names
        probabilities = {first: 1.0, **dict.fromkeys(others, 0.0)}
        return [Prediction(name, first, probabilities, None, None) for name in names]


def test_pages_escape_hostile_names_and_send_them_unchanged():
    name = "<b>\x1b[31m\u202e"
    columns = (Column(name), Column("kind", categories=(name, " a ")))
    spec = DataSpec(
        (3,), 2, TableInputs(columns), class_names=(f"{name}\udcff", "b"), class_counts=(1, 1)
    )
    info = ModelInfo(name, name, name, "supervised", "cpu", name)
    page = demo_page(spec, info)
    exact = name.replace("<b>", "&lt;b&gt;")
    assert f'<option value="{exact}">{visible(exact)}</option>' in page
    assert '<option value=" a "> a </option>' in page
    assert f'data-column="{exact}"' in page
    read = re.sub("<[^>]*>", "", page)
    assert "\x1b" not in read
    assert "\u202e" not in read

    def app():
        return make_app(FirstClassModel(spec), info, Limits(), Metrics())

    assert get(app(), "/").status_code == 200
    document = get(app(), "/docs").text
    assert "&lt;b&gt;" in document
    assert not {"\x1b", "\u202e"} & set(document)
    assert get(app(), "/openapi.json").json()["info"]["title"]
    (response,) = send(app(), {"json": {"rows": [{name: 1.0, "kind": " a "}]}})
    assert response.json()["predictions"][0]["label"] == f"{name}\udcff"


def test_health_describes_the_model(service):
    assert get(service("rows"), "/healthz").json() == {
        "status": "ok",
        "run": "run",
        "checkpoint": "step-1",
        "task": "supervised",
        "device": "cpu",
    }
