"""A server answers as the model does, whatever stands beside; what can't be answered is said, and harms none."""

import base64
import json
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kit.servers import agree, coded, form

JSON = {"Content-Type": "application/json"}


def test_json_and_forms_are_answered_as_the_model_does(live, photos, expected):
    status, _, answer = live.post({"images": [coded(photo) for photo in photos]})
    assert status == 200 and len(answer["predictions"]) == len(photos)
    body, headers = form([(f"{n}.png", photo) for n, photo in enumerate(photos)])
    status, _, of_form = live.request("POST", "/predict", body, headers)
    assert status == 200 and of_form["model"] == answer["model"]
    assert [row["image"] for row in of_form["predictions"]] == [f"{n}.png" for n in range(len(photos))]
    for n, (row, same) in enumerate(zip(answer["predictions"], of_form["predictions"], strict=True)):
        assert row["image"] == str(n)
        agree(row, expected[0], n)
        agree(same, expected[0], n)


def test_base64_in_every_form(live, photos, expected):
    plain = coded(photos[0])
    forms = [
        plain, f"data:image/png;base64,{plain}", base64.encodebytes(photos[0]).decode(),
        base64.urlsafe_b64encode(photos[0]).decode(), plain.rstrip("="), f" {plain}\n",
    ]  # fmt: skip
    _, _, answer = live.post({"images": forms})
    for row in answer["predictions"]:
        agree(row, expected[0], 0)


def test_top_k(live, photos):
    _, _, answer = live.post({"images": [coded(photos[0])], "top_k": 3})
    (row,) = answer["predictions"]
    found = [row["Colour/confidence"], row["Colour/2/confidence"], row["Colour/3/confidence"]]
    assert found == sorted(found, reverse=True) and math.isclose(sum(found), 1, abs_tol=1e-5)
    assert sorted([row["Colour"], row["Colour/2"], row["Colour/3"]]) == ["blue", "green", "red"]
    assert {row["Material/value/1"], row["Material/value/2"]} == {"a", "b"}


def test_a_photo_that_is_none_is_a_row_that_says_so(live, photos, expected):
    broken = photos[1][: len(photos[1]) // 2]
    images = [coded(photos[0]), "!!!", "", coded(broken), coded(b"GIF89a"), coded(b"%PDF-1.4"), coded(photos[2])]
    status, _, answer = live.post({"images": images})
    said = [row["status"] for row in answer["predictions"]]
    assert status == 200 and said[:3] == ["ok", "not_an_image", "missing"] and said[-1] == "ok"
    assert not {"ok", ""} & set(said[3:6])
    agree(answer["predictions"][0], expected[0], 0)
    agree(answer["predictions"][6], expected[0], 2)
    for row in answer["predictions"][1:6]:
        assert {value for name, value in row.items() if name not in ("image", "status")} == {None}


BODIES = [
    # What is sent, its headers, the status, and a word of the reason.
    (b"", JSON, 400, "JSON"),
    (b"{", JSON, 400, "JSON"),
    (b"\xff\xfe", JSON, 400, "JSON"),
    (b"null", JSON, 422, "body"),
    (b"[]", JSON, 422, "body"),
    (b'"x"', JSON, 422, "body"),
    (b"{}", JSON, 422, "images"),
    (b'{"images": null}', JSON, 422, "images"),
    (b'{"images": "x"}', JSON, 422, "images"),
    (b'{"images": []}', JSON, 422, "images"),
    (b'{"images": {}}', JSON, 422, "images"),
    (b'{"images": [1]}', JSON, 422, "images[0]"),
    (b'{"images": ["x", null]}', JSON, 422, "images[1]"),
    (b'{"images": [["x"]]}', JSON, 422, "images[0]"),
    (b'{"images": ["x"], "top_k": 0}', JSON, 422, "top_k"),
    (b'{"images": ["x"], "top_k": 501}', JSON, 422, "top_k"),
    (b'{"images": ["x"], "top_k": "3"}', JSON, 422, "top_k"),
    (b'{"images": ["x"], "top_k": 1.5}', JSON, 422, "top_k"),
    (b'{"images": ["x"], "top_k": true}', JSON, 422, "top_k"),
    (b'{"images": ["x"], "top_k": NaN}', JSON, 400, "NaN"),
    (b'{"images": ["x"], "top_k": 1e400}', JSON, 422, "top_k"),
    (b'{"images": ["x"], "topk": 1}', JSON, 422, "topk"),
    (b'{"instances": ["x"]}', JSON, 422, "instances"),
    (b"[" * 100_000, JSON, 400, "JSON"),
    (b'{"images": ["x"]} trailing', JSON, 400, "JSON"),
    (b'{"images": ["\xff"]}', JSON, 400, "JSON"),
    (json.dumps({"images": ["x"] * 65}).encode(), JSON, 413, "64"),
    (b"images=x", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "content-type"),
    (b"x", {"Content-Type": "text/plain"}, 415, "text/plain"),
    (b"x", {"Content-Type": "image/jpeg"}, 415, "image/jpeg"),
    (b"x", {}, 415, "content-type"),
    (b"x", {"Content-Type": ""}, 415, "content-type"),
    (b"x", {"Content-Type": "multipart/form-data"}, 400, "form"),
    (b"x", {"Content-Type": "multipart/form-data; boundary="}, 400, "form"),
    (b"x", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "form"),
    (b"--b\r\n\r\nx\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "form"),
    (b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 422, "photo"),
    (*form([]), 422, "photo"),
    (*form([("a.png", b"x")], top_k="many"), 422, "top_k"),
    (*form([("a.png", b"x")], top_k="-1"), 422, "top_k"),
    (*form([("a.png", b"x")], top_k="0000000501"), 422, "top_k"),
    (*form([("a.png", b"x")], top_k="000000001" + "0" * 5000), 422, "top_k"),
    (*form([("a.png", b"x")], colour="red"), 422, "colour"),
    (json.dumps({"images": [1] * 100_000}).encode(), JSON, 413, "64"),
    (json.dumps({f"key{n}": 1 for n in range(100_000)}).encode(), JSON, 422, "keys"),
    (json.dumps({"k" * 100_000: 1, "images": ["x"]}).encode(), JSON, 422, "k"),
    (*form([("a.png", b"x")] * 65), 413, "64"),
]


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_a_request_that_is_none_is_told_why_and_harms_no_other(live, photos, expected, number):
    body, headers, wanted, word = BODIES[number]
    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(live.post, {"images": [coded(photo) for photo in photos[:8]]})
        status, answered, content = live.request("POST", "/predict", body, headers)
        good, _, answer = beside.result()
    assert status == wanted, content
    assert answered.get_content_type() == "application/json" and list(content) == ["error"]
    assert word.casefold() in content["error"].casefold(), content
    assert good == 200
    for n, row in enumerate(answer["predictions"]):
        agree(row, expected[0], n)


@pytest.mark.parametrize(
    "raw", [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_is_refused(live, raw):
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(raw)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    assert live.request("GET", "/ready")[0] == 200


def test_a_client_that_goes_away_in_the_middle_harms_no_other(live, photos, expected):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: 1000\r\n\r\n{")
    status, _, answer = live.post({"images": [coded(photos[3])]})
    assert status == 200
    agree(answer["predictions"][0], expected[0], 3)


def test_a_photo_of_a_text_that_takes_long_to_read_keeps_nobody_waiting(live):
    began = time.monotonic()
    status, _, answer = live.post({"images": ["data:" * 400_000]})
    assert status == 200 and answer["predictions"][0]["status"] != "ok"
    assert time.monotonic() - began < 20


def test_a_name_of_half_a_character_is_answered(live, photos):
    body, _ = form([("\\ud800.png", photos[0])])
    headers = {"Content-Type": "multipart/form-data; boundary=b; charset=unicode_escape"}
    assert live.request("POST", "/predict", body, headers)[0] in {200, 400, 422}


def test_other_paths_and_methods(live):
    assert live.request("GET", "/nowhere")[::2] == (404, {"error": "Not Found"})
    assert live.request("GET", "/predict")[0] == 405
    assert live.request("GET", "/../../etc/passwd")[0] == 404
    status, _, content = live.request("POST", "/look", *form([("a.png", b"x")]))
    assert status == 404 and "where it looks" in content["error"]


def test_what_is_served_is_said(live, contents):
    status, _, info = live.request("GET", "/info")
    assert status == 200 and info["data"] == "d1" and info["model"]["version"] == "1" and not info["can_look"]
    assert [(task["slug"], task["kind"]) for task in info["tasks"]] == [
        ("Colour", "single"), ("Größe", "single"), ("Material", "set"),
    ]  # fmt: skip
    assert [task["thresholds"] for task in info["tasks"]] == [None, None, [0.5, 0.5]]
    assert live.request("GET", "/health")[::2] == (200, {"status": "ok"}) and live.request("HEAD", "/health")[0] == 200
    assert live.request("GET", "/ready")[::2] == (200, {"status": "ready"})
    _, _, api = live.request("GET", "/openapi.json")
    assert {"/predict", "/look", "/info", "/health", "/ready", "/metrics"} == set(api["paths"])
    example = api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"][0]
    status, _, answer = live.post(example)
    assert status == 200 and answer["predictions"][0]["status"] == "ok"


def test_prometheus_can_read_what_was_counted(live, photos):
    from prometheus_client.parser import text_string_to_metric_families

    def read():
        text = live.request("GET", "/metrics")[2].decode()
        return {(s.name, *sorted(s.labels.items())): s.value for f in text_string_to_metric_families(text)
                for s in f.samples}  # fmt: skip

    before = read()
    live.post({"images": [coded(photos[0]), coded(photos[1]), "!"]})
    after = read()

    def more(name, **labels):
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    assert more("fmtl_photos_total", status="ok") == 2 and more("fmtl_photos_total", status="not_an_image") == 1
    assert more("fmtl_requests_total", path="/predict", code="200") == 1
    assert more("fmtl_predict_seconds_count") == 1 and after["fmtl_waiting_photos",] == 0
