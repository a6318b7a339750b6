"""Pages, the OpenAPI description, metrics and the health of a service."""

import re

import pytest
from openapi_spec_validator import validate
from services import get, predictions, send

from dltrain.commands.predict import Prediction
from dltrain.core.data_spec import Column, DataSpec, TableInputs
from dltrain.core.errors import escape_control_characters
from dltrain.serving.app import make_app
from dltrain.serving.limits import Limits
from dltrain.serving.metrics import Metrics
from dltrain.serving.pages import ModelInfo, demo_page


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
    assert f'<option value="{exact}">{escape_control_characters(exact)}</option>' in page
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


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/metrics"])
def test_head_and_get_are_answered_and_post_is_refused(service, path):
    app = service("texts")
    head, get_, post = send(app, *({"method": m, "url": path} for m in ("HEAD", "GET", "POST")))
    assert (head.status_code, get_.status_code, post.status_code) == (200, 200, 405)
    assert head.headers["Content-Type"] == get_.headers["Content-Type"]


def test_the_demo_page_is_titled_by_the_experiment_and_names_the_target(service):
    page = get(service("rows"), "/").text
    assert "<title>name</title>" in page
    assert "<h1>name</h1>" in page
    assert "Predicted class</h2>" in page


@pytest.mark.parametrize(
    ("mean", "std", "shown"),
    [
        (1462.3071, 203.7, "1460"),
        (0.0963602, 0.01406, "0.096"),
        (-3.21e-9, 4e-10, "-3.21e-09"),
        (1e300, 3e299, "1e+300"),
        (2.0, 1.0, "2"),
    ],
)
def test_default_values_are_rounded_according_to_the_spread_of_the_column(mean, std, shown):
    spec = DataSpec((1,), 1, TableInputs((Column("weight", mean, std),)))
    page = demo_page(spec, ModelInfo("name", "run", "step-1", "supervised", "cpu", "price"))
    assert '<label class="name" for="field0">weight</label><input id="field0"' in page
    assert f'required value="{shown}"' in page


def test_the_drawing_canvas_has_a_visible_label(service):
    page = get(service("images"), "/").text
    (label,) = re.findall('<canvas[^>]* aria-labelledby="([^"]*)"', page)
    assert f'id="{label}">Draw an image' in page


def test_the_openapi_description_follows_the_data(service):
    """Columns, categories, classes and limits are part of the schemas."""
    schemas = get(service("codes", max_items=7), "/openapi.json").json()["components"]["schemas"]
    assert schemas["Inputs"]["properties"]["rows"]["maxItems"] == 7
    assert schemas["Inputs"]["properties"]["rows"]["items"] == {"$ref": "#/components/schemas/Row"}
    assert list(schemas["Row"]["properties"]) == ["zip", "flag", "weight"]
    assert schemas["Row"]["properties"]["weight"]["type"] == "number"
    assert "9007199254740993" in schemas["Row"]["properties"]["zip"]["description"]
    assert schemas["Prediction"]["properties"]["values"]["type"] == "array"
    assert schemas["Prediction"]["properties"]["label"]["type"] == "null"
    assert schemas["Problem"]["required"] == ["message", "item"]
    classes = get(service("images"), "/openapi.json").json()["components"]["schemas"]["Prediction"]
    assert classes["properties"]["label"]["enum"] == ["0", "1", "2"]
    assert classes["properties"]["probabilities"]["propertyNames"] == {"enum": ["0", "1", "2"]}
