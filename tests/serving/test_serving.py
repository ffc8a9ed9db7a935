"""How a server takes much at once, ends, and goes over to another model: nothing that it took is lost."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from kit.servers import RUN, agree, coded, form


def test_many_clients_are_each_answered_with_their_own(live, photos, expected):
    def ask(n):
        k = n % len(photos)
        status, _, answer = live.post({"images": [coded(photos[k]), coded(photos[(k + 5) % len(photos)])]})
        assert status == 200
        agree(answer["predictions"][0], expected[0], k)
        agree(answer["predictions"][1], expected[0], (k + 5) % len(photos))

    def batches():
        text = live.request("GET", "/metrics")[2].decode()
        return float(text.split("fmtl_batch_photos_count ")[1].split()[0])

    before = batches()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(200)))
    assert batches() - before < 190  # photos of different requests were labelled together


def test_what_is_too_much_is_told_to_come_again(serve, photos):
    live = serve("--most-waiting", "4")
    codes = []

    def ask(_):
        while True:
            status, headers, content = live.post({"images": [coded(photo) for photo in photos[:4]]})
            codes.append(status)
            if status == 200:
                return
            assert status == 429 and 1 <= int(headers["Retry-After"]) <= 60 and "wait" in content["error"]
            time.sleep(0.05)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(36)))
    assert codes.count(200) == 36 and codes.count(429) >= 1
    assert live.post({"images": [coded(photos[0])]})[0] == 200
    status, _, content = live.post({"images": [coded(photo) for photo in photos[:5]]})
    assert status == 413 and "4" in content["error"]  # it could never be taken


def test_bytes_and_pixels_have_limits(serve, photos):
    live = serve("--most-bytes", "20000", "--most-pixels", "1000")
    status, _, content = live.post({"images": ["A" * 30_000]})
    assert status == 413 and "20,000" in content["error"]
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:  # which says no length
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(
            b"Transfer-Encoding: chunked\r\n\r\n" + (b"2710\r\n" + b"A" * 10_000 + b"\r\n") * 3 + b"0\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    status, _, content = live.post({"images": [coded(photos[0])]})
    assert content["predictions"][0]["status"] == "too_large"


def test_a_token_is_asked_for(serve, photos, tmp_path):
    (tmp_path / "token").write_text("s3cret-s3cret\n")
    for options, environment in (
        (["--token-file", str(tmp_path / "token")], {}),
        ([], {"FMTL_SERVE_TOKEN": "s3cret-s3cret"}),
    ):
        live = serve(*options, environment=environment)
        content = {"images": [coded(photos[0])]}
        assert live.post(content)[0] == 401
        assert live.post(content, Authorization="Bearer wrong-wrong")[0] == 401
        assert live.post(content, Authorization="Bearer s3cret-s3cret")[0] == 200
        for path in ("/info", "/metrics"):
            assert live.request("GET", path)[0] == 401
        for path in ("/", "/health", "/ready", "/docs"):
            assert live.request("GET", path)[0] == 200


def test_what_can_not_be_served_is_said(tmp_path, contents):
    (tmp_path / "shop.onnx").write_bytes(contents[0])
    (tmp_path / "bad.onnx").write_bytes(contents[0][:1000])

    def said(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments], cwd=tmp_path, env=os.environ | environment, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, told = said("shop.onnx", "--port", str(taken.getsockname()[1]))
        assert code == 4 and "can't listen" in told
    assert said("absent.onnx")[0] == 3 and said("bad.onnx")[0] == 3
    code, told = said("shop.onnx", FMTL_SERVE_TOKEN="short")
    assert code == 2 and "at least 8" in told and "short" not in told.replace("shorter", "")
    assert said("shop.onnx", "--port", "99999")[0] == 2
    assert said("shop.onnx", "--port", "0", "--host", "a" * 70)[0] == 4
    assert said("shop.onnx", "--images", "absent")[0] == 3 and not (tmp_path / "predictions.csv").exists()
    (tmp_path / "bad.jpg").write_bytes(b"no")
    assert said("shop.onnx", "--images", "bad.jpg")[0] == 3
    assert said("shop.onnx", "--images", "bad.jpg", "--out", "absent/x.csv")[0] == 4


def test_until_it_ends_it_takes_requests_and_says_that_it_will_not(serve, photos):
    live = serve()
    live.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert live.request("GET", "/ready")[0] == 503
    assert live.post({"images": [coded(photos[0])]})[0] == 200
    assert live.process.wait(30) == 0


def test_requests_that_have_begun_are_answered_before_it_ends(serve, photos, expected):
    live = serve()
    body, headers = form([(str(n), photo) for n, photo in enumerate(photos)])
    half = len(body) // 2
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode())
        connection.sendall(body[:half])
        time.sleep(0.3)
        live.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert live.process.poll() is None
        connection.sendall(body[half:])
        answer = b""
        while part := connection.recv(65_536):
            answer += part
            if answer.endswith(b"}"):
                break
    assert answer.startswith(b"HTTP/1.1 200") and answer.count(b'"status": "ok"') == len(photos)
    assert live.process.wait(30) == 0


def test_another_file_takes_its_place_without_a_lost_request(serve, photos, expected, contents):
    live = serve("--follow", "--follow-seconds", "0.2")
    stop, failures, versions = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            status, _, answer = live.post({"images": [coded(photos[0]), coded(photos[1])]})
            if status != 200:
                failures.append(answer)
                continue
            version = int(answer["model"]["version"])
            versions.append(version)
            for n in (0, 1):
                agree(answer["predictions"][n], expected[version - 1], n)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for content in (contents[1], contents[0][:5000], contents[0], contents[1]):
            before = len(versions)
            beside = live.file.with_suffix(".new")
            beside.write_bytes(content)
            beside.replace(live.file)
            time.sleep(1.5)
            assert len(versions) > before
        stop.set()
        for found in asking:
            found.result()
    assert not failures and set(versions) == {1, 2} and versions[-1] == 2
    assert live.request("GET", "/info")[2]["model"]["version"] == "2"


@pytest.mark.slow
def test_two_hundred_clients_for_a_while(serve, photos):
    """No answer but 200 and 429, and no more memory from a third of the time on."""
    live = serve()
    end = time.monotonic() + 30
    codes, memory = [], []
    body, headers = form([("a", photos[0]), ("b", photos[1])])

    def ask(_):
        while time.monotonic() < end:
            codes.append(live.request("POST", "/predict", body, headers, timeout=60)[0])

    process = psutil.Process(live.process.pid)
    with ThreadPoolExecutor(201) as pool:
        asking = [pool.submit(ask, n) for n in range(200)]
        while time.monotonic() < end:
            memory.append(process.memory_info().rss)
            time.sleep(0.5)
        for found in asking:
            found.result()
    assert set(codes) <= {200, 429} and codes.count(200) > 200
    assert max(memory[-10:]) < 1.2 * max(memory[: len(memory) // 3]) + (20 << 20)


def test_a_folder_and_a_table_become_predictions(tmp_path, photos, expected, contents):
    import pandas as pd

    (tmp_path / "shop.onnx").write_bytes(contents[0])
    folder = tmp_path / "photos"
    (folder / "in").mkdir(parents=True)
    for n, photo in enumerate(photos[:5]):
        (folder / "in" / f"{n}.png").write_bytes(photo)
    (folder / "in" / "bad.jpg").write_bytes(b"no")
    (folder / "list.csv").write_text("sku,image\n1,in/2.png\n2,\n3,../../etc/passwd\n4,in/0.png\n")

    def said(images):
        done = subprocess.run(
            [sys.executable, "-c", RUN, "shop.onnx", "--images", images, "--out", "out.csv"], cwd=tmp_path,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, pd.read_csv(tmp_path / "out.csv", keep_default_na=False)

    told, table = said("photos")
    assert "6 images = 5 labelled + 1 not" in told
    assert table["image"].tolist() == [*(f"in/{n}.png" for n in range(5)), "in/bad.jpg"]
    assert table["Colour"].tolist()[:5] == expected[0]["Colour"].tolist()[:5]
    _, table = said("photos/list.csv")
    assert table["status"].tolist() == ["ok", "missing", "outside_root", "ok"]
    assert table["Größe"].tolist() == [expected[0]["Größe"][2], "", "", expected[0]["Größe"][0]]
