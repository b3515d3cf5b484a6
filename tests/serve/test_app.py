"""The API: every route, every limit, every message."""

from __future__ import annotations

import io
import json
import logging
import time

import pytest
from benchmarks.serve import Answer as Seen
from benchmarks.serve import Cases, Judge, bomb, encoded
from PIL import Image

from vitscope import Explainer
from vitscope.errors import VitscopeError
from vitscope.methods import list_methods
from vitscope.serve import Limits, create_app, schemas
from vitscope.serve.guard import HEADERS
from vitscope.serve.worker import FAULT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def ask(client, files, path="/api/explain", **data):
    return client.post(path, files=files, data=data)


def refused(reply, status, says):
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    content = reply.json()
    assert list(content) == ["error"]
    assert says in content["error"]
    assert "\n" not in content["error"]
    assert "Traceback" not in reply.text
    assert all(reply.headers[name] == value for name, value in HEADERS.items())


def until(client, key, *states):
    for _ in range(3000):
        seen = client.get(f"/api/jobs/{key}").json()
        if seen["state"] in states:
            return seen
        time.sleep(0.01)
    raise AssertionError(seen)


def test_the_page(opened):
    with opened() as client:
        assert "/api/openapi.json" in client.get("/").text
    with opened(page="<p>mine</p>") as client:
        reply = client.get("/")
    assert (reply.text, reply.headers["content-type"]) == ("<p>mine</p>", "text/html; charset=utf-8")
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; ")


def test_the_models(client, explainer):
    (model,) = client.get("/api/models").json()["models"]
    assert model["name"] == "scenes"
    assert model["classes"] == list(explainer.names.names)
    assert model["input_size"] == [96, 96]
    assert model["default_methods"] == "daam,agcam,cdam"
    assert [one["name"] for one in model["methods"]] == [facts.name for facts in list_methods()]
    assert {"title", "family", "cost", "caution", "class_specific", "signed"} <= model["methods"][0].keys()


def test_the_limits(opened):
    with opened(pictures=3, job_seconds=7.5) as client:
        limits = client.get("/api/limits").json()
    assert (limits["pictures"], limits["job_seconds"], limits["body_bytes"]) == (3, 7.5, 32 * 2**20)


def test_requests_drawn_at_random(client, explainer):
    cases, judge = Cases(explainer, seed=time.time_ns()), Judge(explainer)
    for case in cases.mixed(12, bad=0.4):
        reply = client.post("/api/explain", files=case.files, data=case.data)
        assert not judge.wrong(Seen(case, reply.status_code, reply.content, 0))


def test_the_judge_sees_a_wrong_answer(client, explainer, files):
    """Of another picture; with another target; with a value changed."""
    cases, judge = Cases(explainer), Judge(explainer)
    case = cases.good()
    case.files, case.data = files(2), {"methods": "cdam", "target": "3"}
    reply = client.post("/api/explain", files=case.files, data=case.data)
    good = Seen(case, 200, reply.content, 0)
    assert not judge.wrong(good)
    content = json.loads(reply.content)
    content["pictures"].reverse()
    assert judge.wrong(Seen(case, 200, json.dumps(content).encode(), 0))
    other = client.post("/api/explain", files=case.files, data=case.data | {"target": "4"})
    assert judge.wrong(Seen(case, 200, other.content, 0))
    maps = client.post("/api/explain", files=case.files, data=case.data | {"methods": "daam"}).json()
    content = json.loads(reply.content)
    content["pictures"][1]["methods"][0]["values"] = maps["pictures"][1]["methods"][0]["values"]
    assert "values: off by" in judge.wrong(Seen(case, 200, json.dumps(content).encode(), 0))


def test_a_result_is_what_the_description_says(client, files):
    reply = ask(client, files(2), methods="daam,attention,rise:masks=9")
    result = schemas.Result.model_validate_json(reply.content)
    sent = reply.json()
    for told, given in zip(result.pictures, sent["pictures"], strict=True):
        assert told.model_fields_set == given.keys()
        assert told.lens.model_fields_set == given["lens"].keys()
        assert [one.model_fields_set for one in told.methods] == [one.keys() for one in given["methods"]]


def test_a_job_from_its_beginning_to_its_end(client, files):
    reply = ask(client, files(2), "/api/jobs")
    assert reply.status_code == 202
    job = reply.json()
    assert job["pictures"] == 2
    assert until(client, job["id"], "done")["error"] is None
    result = client.get(f"/api/jobs/{job['id']}/result").json()
    assert [picture["name"] for picture in result["pictures"]] == ["0.png", "1.png"]
    assert client.delete(f"/api/jobs/{job['id']}").json()["state"] == "done"
    for path in ("", "/result"):
        refused(client.get(f"/api/jobs/{job['id']}{path}"), 410, "no longer kept")


def test_a_job_that_nobody_sent(client):
    for path in ("", "/result"):
        refused(client.get(f"/api/jobs/0{path}"), 404, "no such job")
    refused(client.delete("/api/jobs/0"), 404, "no such job")


def test_waiting_running_and_cancelled(client, files, held):
    first, second, third = (
        ask(client, files(), "/api/jobs", methods=m).json()["id"] for m in ("cdam", "daam", "agcam")
    )
    assert held.entered.wait(60)
    assert until(client, first, "running")["progress"] is None
    assert client.get(f"/api/jobs/{third}").json()["ahead"] == 1
    refused(client.get(f"/api/jobs/{third}/result"), 409, "the job is waiting")
    refused(client.get(f"/api/jobs/{first}/result"), 409, "the job is running")
    assert client.delete(f"/api/jobs/{second}").json()["state"] == "cancelled"
    assert client.get(f"/api/jobs/{third}").json()["ahead"] == 0
    refused(client.get(f"/api/jobs/{second}/result"), 410, "cancelled")
    client.delete(f"/api/jobs/{first}")
    held.go.set()
    assert until(client, third, "done")
    assert client.get(f"/api/jobs/{first}").json()["state"] == "cancelled"
    assert len(held.calls) == 2


def test_progress_is_told_and_a_running_job_is_stopped_between_two_forwards(opened, files):
    with opened(max_forwards=100_000) as client:
        job = ask(client, files(2), "/api/jobs", methods="cdam,rise:masks=100000").json()["id"]
        seen = until(client, job, "running")
        while seen["progress"] is None:
            seen = client.get(f"/api/jobs/{job}").json()
        assert seen["progress"]["method"] == "rise:masks=100000"
        assert seen["progress"]["total"] == 200_000
        assert 0 < seen["progress"]["done"] < 100_000
        client.delete(f"/api/jobs/{job}")
        start = time.monotonic()
        assert ask(client, files(), methods="cdam").status_code == 200
        assert time.monotonic() - start < 20


def test_what_waits_goes_together(opened, files, held):
    with opened(batch_size=4) as client:
        jobs = [ask(client, files(2, first=n), "/api/jobs", target=str(n)).json()["id"] for n in range(4)]
        held.go.set()
        for n, job in enumerate(jobs):
            assert until(client, job, "done")
            result = client.get(f"/api/jobs/{job}/result").json()
            assert [one["name"] for one in result["pictures"]] == [f"{n}.png", f"{n + 1}.png"]
            assert [one["explained"]["index"] for one in result["pictures"]] == [n, n]
        assert held.calls == [2, 4, 2]
        assert client.get("/api/status").json() == {
            "waiting": 0,
            "running": 0,
            "kept": 4,
            "ended": {"done": 4},
            "passes": {"2": 2, "4": 1},
        }


def test_a_full_queue(opened, files, held):
    with opened(jobs_waiting=2) as client:
        first = ask(client, files(), "/api/jobs").json()["id"]
        assert held.entered.wait(60)
        others = [ask(client, files(), "/api/jobs").json()["id"] for _ in range(2)]
        for path in ("/api/jobs", "/api/explain"):
            reply = ask(client, files(), path)
            refused(reply, 429, "2 jobs wait already")
            assert int(reply.headers["retry-after"]) > 0
        held.go.set()
        for job in (first, *others):
            until(client, job, "done")
        assert ask(client, files()).status_code == 200


def test_a_bad_request_gives_its_place_back(opened, files):
    with opened(jobs_waiting=1) as client:
        for _ in range(3):
            refused(ask(client, [("images", ("a.png", b"hello"))]), 415, "a.png: not a picture")
            refused(ask(client, files(), target="unicorn"), 422, "unicorn")
        assert ask(client, files()).status_code == 200


def test_the_time_of_a_job_is_limited(opened, files, held):
    with opened(job_seconds=0.3) as client:
        job = ask(client, files(), "/api/jobs").json()["id"]
        refused(ask(client, files()), 504, "longer than 0.3 seconds")
        assert client.get(f"/api/jobs/{job}").json()["state"] == "expired"
        refused(client.get(f"/api/jobs/{job}/result"), 410, "longer than 0.3 seconds")


def test_results_grow_old(opened, files):
    with opened(result_seconds=0.2) as client:
        job = ask(client, files(), "/api/jobs").json()["id"]
        until(client, job, "done")
        time.sleep(0.3)
        refused(client.get(f"/api/jobs/{job}/result"), 410, "no longer kept")


def test_an_answer_that_was_waited_for_is_not_kept(client, files):
    for _ in range(3):
        assert ask(client, files()).status_code == 200
    assert client.get("/api/status").json()["kept"] == 0


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"hello", 415, "a.png: not a picture; send PNG, JPEG, WEBP, GIF, BMP or TIFF"),
        (bomb(), 413, "a.png: 100 megapixels, at most 50; scale it down first"),
        (bomb(20_000), 413, "a.png: 400 megapixels, at most 50; scale it down first"),
        (encoded(Image.effect_noise((90, 90), 50))[:3000], 422, "a.png: the file is damaged or truncated"),
        (encoded(Image.new("L", (1, 60_000))), 413, "a.png: 1 x 60000 pixels; the longer side"),
    ],
)
def test_a_refused_picture(content, status, says, client, files):
    for path in ("/api/explain", "/api/jobs"):
        refused(ask(client, [*files(), ("images", ("a.png", content))], path), status, says)
        refused(ask(client, [*files(), ("concept", ("a.png", content))], path), status, says)


def test_a_refused_number_of_pictures(client, files):
    refused(ask(client, files(9)), 413, "9 files in the field images; send 8 at most")
    refused(ask(client, [*files(), *files(17, field="concept")]), 413, "17 files in the field concept; send 16 at most")
    refused(ask(client, files(70)), 400, "Too many files")


def test_a_body_that_is_announced_too_large(opened, files):
    with opened(body_bytes=2**20) as client:
        big = [("images", ("a.png", bytes(2**20)))]
        refused(ask(client, big), 413, "the request is larger than 1 MiB")
        refused(client.post("/nowhere", content=bytes(2**20 + 1)), 413, "larger than 1 MiB")
        assert ask(client, files()).status_code == 200


def wrong_fields():
    picture = ("images", ("a.png", encoded(Image.new("RGB", (9, 9)))))
    return [
        ([], {"methods": "daam"}, 415, "multipart/form-data"),
        ([("concept", picture[1])], {}, 422, "there is no picture; send files in the field images"),
        ([("images", (None, b"/etc/passwd"))], {}, 422, "the field images holds a text; send a file"),
        ([picture], {"image": "1"}, 422, "no field 'image'; the fields are images, concept, model, methods"),
        ([picture, ("target", ("t.txt", b"3"))], {}, 422, "the field target is a text"),
        ([picture], {"target": ["3", "4"]}, 422, "the field target is there twice"),
        ([picture], {"lens": "maybe"}, 422, "true or false"),
        ([picture], {"model": "timm/vit_tiny_patch16_224"}, 422, "is loaded; there is scenes"),
        ([picture], {"methods": "dam"}, 422, "unknown method 'dam'; did you mean"),
        ([picture], {"methods": "rise:masks=100000"}, 422, "here at most"),
        ([picture], {"methods": "x" * 20_000}, 400, "exceeded maximum size"),
        ([picture], {"target": "unicorn"}, 422, "no class is called 'unicorn'"),
        ([picture, ("concept", picture[1])], {"target": "3"}, 422, "two targets"),
    ]


@pytest.mark.parametrize(("files", "data", "status", "says"), wrong_fields())
def test_a_form_filled_in_wrongly(files, data, status, says, client):
    for path in ("/api/explain", "/api/jobs"):
        refused(client.post(path, files=files or None, data=data), status, says)


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        (b"{}", "application/json", 415, "send a form"),
        (b"", "", 415, "send a form"),
        (b"images=a.png", "application/x-www-form-urlencoded", 415, "send a form"),
        (b"hello", "multipart/form-data", 400, "Missing boundary"),
        (b"hello", "multipart/form-data; boundary=x", 400, "nvalid multipart"),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x", 400, ""),
        (b"", "multipart/form-data; boundary=x", 422, "there is no picture"),
        (
            b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nhalf',
            "multipart/form-data; boundary=x",
            422,
            "there is no picture",
        ),
    ],
)
def test_a_body_that_is_no_form(content, kind, status, says, client):
    refused(client.post("/api/explain", content=content, headers={"content-type": kind}), status, says)


def test_an_empty_choice_of_files_is_none(client, files):
    """What a browser sends for a file field that was left empty."""
    body = b""
    for field, name, content in (("images", "a.png", files()[0][1][1]), ("concept", "", b"")):
        head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    reply = client.post(
        "/api/explain", content=body + b"--x--\r\n", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert reply.status_code == 200
    assert reply.json()["pictures"][0]["asked"] == "the predicted class"


PATHS = ("../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "file:///etc/passwd", "%2e%2e%2fetc/passwd")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_ever_opened(path, client, files, monkeypatch):
    import builtins
    import os

    def refuse(*arguments, **options):
        raise AssertionError(f"opened {arguments}")

    with monkeypatch.context() as patch:
        for where, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat")):
            whole = getattr(where, name)

            def watched(file, *rest, whole=whole, **options):
                return (
                    refuse(file) if "passwd" in str(file) or "win.ini" in str(file) else whole(file, *rest, **options)
                )

            patch.setattr(where, name, watched)
        refused(ask(client, files(), model=path), 422, "is loaded")
        refused(ask(client, files(), methods=path), 422, "unknown method")
        refused(ask(client, files(), target=path), 422, "no class is called")
        for url in (f"/{path}", f"/..%2f..%2f{path}", f"/static/{path}", f"/api/models/{path}"):
            refused(client.get(url), 404, "nothing at this address")
        refused(client.get(f"/api/jobs/{path}"), 404, "")
        (file,) = files()
        named = [("images", (path, file[1][1]))]
        reply = ask(client, named)
        assert reply.status_code == 200
        assert reply.json()["pictures"][0]["name"] == path.replace("\\", "/").rsplit("/", 1)[1]


def test_unknown_addresses_and_verbs(client):
    refused(client.get("/nowhere"), 404, "nothing at this address")
    refused(client.get("/docs"), 404, "nothing")
    refused(client.get("/redoc"), 404, "nothing")
    refused(client.get("/openapi.json"), 404, "nothing")
    refused(client.put("/api/jobs"), 405, "PUT is not for this address")
    refused(client.get("/api/explain"), 405, "GET is not for this address")
    refused(client.get("/api/jobs/"), 404, "")


def test_the_servers_own_failure_is_told_without_its_details(opened, files, monkeypatch, caplog):
    def broken(self, *rest, **options):
        raise RuntimeError("secret details")

    monkeypatch.setattr(Explainer, "__call__", broken)
    with opened() as client, caplog.at_level(logging.ERROR):
        refused(ask(client, files()), 500, FAULT)
        job = ask(client, files(), "/api/jobs").json()["id"]
        assert until(client, job, "failed")["error"] == FAULT
        refused(client.get(f"/api/jobs/{job}/result"), 500, FAULT)
    assert "secret details" in caplog.text


def test_a_failure_in_a_route_is_told_without_its_details(client, files, monkeypatch):
    monkeypatch.setattr(Explainer, "target", lambda *_: 1 / 0)
    refused(ask(client, files()), 500, "the server failed on this request")


def test_a_job_that_fails(client, files, explainer, scene):
    other = str((int(explainer(scene(0), "cdam").logits.argmax()) + 1) % 12)
    refused(ask(client, files(), methods="attention", target=other), 422, "attention is class-agnostic")
    job = ask(client, files(), "/api/jobs", methods="attention", target=other).json()["id"]
    assert "class-agnostic" in until(client, job, "failed")["error"]
    refused(client.get(f"/api/jobs/{job}/result"), 422, "class-agnostic")


def test_several_models(opened, explainer, files):
    bare = Explainer("scenes-ssl")
    with opened(explainers={"scenes": explainer, "bare": bare}) as client:
        models = client.get("/api/models").json()["models"]
        assert [model["name"] for model in models] == ["scenes", "bare"]
        assert models[1]["classes"] == []
        assert ask(client, files()).json()["pictures"][0]["prediction"]
        refused(ask(client, files(), model="bare"), 422, "predicts no class; give pictures of a concept")
        reply = ask(client, [*files(), *files(2, 3, "concept")], model="bare")
        (picture,) = reply.json()["pictures"]
        assert picture["prediction"] is None
        assert picture["asked"] == "the concept of 2 pictures (dot)"
        assert picture["provenance"]["model"]["model"] == "bare"


def test_without_a_model():
    with pytest.raises(VitscopeError, match="no model"):
        create_app({})


def test_the_description(client):
    """It is OpenAPI: every reference leads somewhere, every route tells its errors, every file field is one."""
    content = client.get("/api/openapi.json").json()
    assert content["openapi"].startswith("3.1")
    assert set(content["paths"]) == {
        "/",
        "/api/models",
        "/api/limits",
        "/api/status",
        "/api/jobs",
        "/api/jobs/{key}",
        "/api/jobs/{key}/result",
        "/api/explain",
    }
    text = json.dumps(content)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in content["components"]["schemas"]
    assert "HTTPValidationError" not in text
    for path, routes in content["paths"].items():
        for route in routes.values():
            assert route["summary"]
            assert "4XX" in route["responses"] or path == "/"
    for path in ("/api/jobs", "/api/explain"):
        route = content["paths"][path]["post"]
        form = route["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["properties"]["images"]["maxItems"] == Limits().pictures
        assert set(form["properties"]) == {"images", "concept", "model", "methods", "target", "lens"}
        assert {"400", "408", "413", "415", "422", "429"} <= route["responses"].keys()
        assert "Retry-After" in route["responses"]["429"]["headers"]
    result = content["paths"]["/api/explain"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert result == {"$ref": "#/components/schemas/Result"}
    for schema in content["components"]["schemas"].values():
        assert schema.get("description") or schema.get("enum")
