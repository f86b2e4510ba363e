"""`fasttrain serve`: `predict`'s answers over HTTP, and a reason for whatever gets none."""

from __future__ import annotations

import base64
import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fasttrain import predict
from tests.support.patience import PATIENCE, wait_until
from tests.support.service import Service, answer_of, form, head, serving
from tests.support.soak import bomb

pytest.importorskip("fastapi_offline", reason="without the extra `serve`")


@pytest.fixture(scope="module")
def service(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    limits = ("--queue", "8", "--max-body", "0.2", "--max-pixels", "1", "--max-images", "4", "--timeout", str(PATIENCE))
    with serving(model_folder, tmp_path_factory.mktemp("service"), *limits) as service:
        yield service


@pytest.fixture(scope="module")
def pictures(photographs: Path) -> list[Path]:
    return sorted(photographs.glob("*/0000.jpg"))[:3]


def test_the_answers_are_those_of_predict(service, model_folder, pictures):
    expected = predict(model_folder, pictures, top_k=3, device="cpu")
    status, answer, _ = service.predict(*[each.read_bytes() for each in pictures], query="?top_k=3")
    assert status == 200 and [each["image"] for each in answer["predictions"]] == ["0.jpg", "1.jpg", "2.jpg"]
    for found, right in zip(answer["predictions"], expected, strict=True):
        assert [each["class"] for each in found["top"]] == list(right.classes)
        assert [each["probability"] for each in found["top"]] == pytest.approx(right.probabilities, abs=1e-5)
    status, alone, _ = service.predict(pictures[0].read_bytes())
    assert status == 200 and alone["predictions"][0]["top"][0]["class"] == expected[0].classes[0]
    assert len(alone["predictions"][0]["top"]) == 5
    assert "image" not in alone["predictions"][0], "a body that is the photograph has no file name"
    assert all(each["probability"] == round(each["probability"], 6) for each in alone["predictions"][0]["top"])


def test_what_is_no_photograph_is_told_why(service, pictures):
    good = pictures[0].read_bytes()
    Image.new("F", (8, 8)).save(floating := io.BytesIO(), "TIFF")
    for data, status, reason in [
        (b"hello", 422, "not a photograph"),
        (b"<html>", 422, "a web page"),
        (good[:2000], 422, "intact"),
        (good[:20], 422, ""),
        (floating.getvalue(), 422, "floating-point"),
        (bomb(), 413, "10000 x 10000 px is more than 1 megapixels"),
        (b"", 400, "no body"),
        (bytes(300_000), 413, "larger than 0.2 MB"),
        (iter([bytes(100_000)] * 3), 413, "larger than 0.2 MB"),
    ]:
        found, answer, _ = service.ask("POST", "/predict", data)
        assert (found, reason in answer["detail"]) == (status, True), answer
    status, answer, _ = service.predict(good, b"hello", bomb())
    assert status == 422 and "2 of 3" in answer["detail"]
    assert ["error" in each for each in answer["predictions"]] == [False, True, True]
    assert "top" in answer["predictions"][0]


def test_a_wrong_request_is_told_why(service, pictures):
    good = pictures[0].read_bytes()
    of_b = "multipart/form-data; boundary=b"
    for body, kind, reason in [
        (form([good] * 5)[0], form([])[1], "can't be read"),
        (b"--b\r\n", of_b, "no file"),
        (b"nonsense", of_b, "can't be read"),
        (
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n',
            of_b,
            "the form's field 'x' is text; send each photograph as a file",
        ),
        (good, "multipart/form-data", "boundary"),
    ]:
        status, answer, _ = service.ask("POST", "/predict", body, {"Content-Type": kind})
        assert (status, reason in answer["detail"]) == (400, True), answer
    body, kind = form([good] * 5)
    status, answer, _ = service.ask("POST", "/predict", body, {"Content-Type": kind})
    assert status == 400 and "Too many files" in answer["detail"]
    status, answer, _ = service.predict(good, query="?top_k=0")
    assert status == 400 and answer["detail"].startswith("top_k = '0': ")
    for query, meant in [
        ("topk=2", "; did you mean 'top_k'?"),
        ("explian=", "; did you mean 'explain'?"),
        ("zzz=1", ""),
    ]:
        status, answer, _ = service.predict(good, query=f"?{query}")
        name = query.partition("=")[0]
        assert (status, answer["detail"]) == (400, f"'{name}' is not one of the parameters top_k, explain{meant}")
    assert service.ask("GET", "/predict")[0] == 405
    assert service.ask("GET", "/nothing")[0] == 404
    assert answer_of(service.begin(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")


def test_a_full_queue_is_told_and_cut_off_requests_leave_it(service, pictures):
    good = pictures[0].read_bytes()
    uploads = [service.begin(head(1000) + b"some") for _ in range(8)]
    service.wait_for_queue(8)
    status, answer, headers = service.predict(good)
    assert status == 429 and "queue is full" in answer["detail"] and int(headers["Retry-After"]) >= 1
    assert service.ask("GET", "/healthz")[:2] == (200, {"status": "ok"})
    for each in uploads[2:]:
        each.close()
    service.wait_for_queue(2)
    assert service.predict(good, good, good)[0] == 200
    for each in uploads[:2]:
        each.close()
    service.wait_for_queue(0)
    gone = [line for line in service.log() if line.get("path") == "/predict" and line["status"] == 499]
    assert len(gone) == 8


def test_every_request_is_a_line_of_json_and_counted(service, pictures):
    before = len(service.log())
    service.predict(pictures[0].read_bytes())
    service.predict(b"hello")
    service.ask("GET", "/healthz")
    wait_until(lambda: len(service.log()) >= before + 3)  # a line is written after its answer
    lines = service.log()[before:]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        *(("POST", "/predict", 200), ("POST", "/predict", 422), ("GET", "/healthz", 200))
    ]
    assert lines[0]["images"] == 1 and lines[0]["bytes"] == pictures[0].stat().st_size and lines[0]["ms"] > 0
    assert lines[1]["detail"] == "not a photograph: no known picture format"
    assert service.metric("fasttrain_batch_size_count") >= 1
    assert service.metric('fasttrain_photographs_total{result="refused"}') >= 1


def test_a_heat_map_is_drawn_for_a_class(service, pictures):
    pytest.importorskip("captum", reason="without the extra `explain`")
    good = pictures[0].read_bytes()
    _, answer, _ = service.predict(good, query="?explain=")
    found = answer["predictions"][0]
    _, same, _ = service.predict(good, query=f"?explain={found['top'][0]['class']}")
    assert same["predictions"][0]["heat_map"] == found["heat_map"]
    kind, _, data = found["heat_map"].partition(",")
    assert kind == "data:image/png;base64" and Image.open(io.BytesIO(base64.b64decode(data))).size == (48, 48)
    _, another, _ = service.predict(good, query=f"?explain={found['top'][1]['class']}")
    assert another["predictions"][0]["heat_map"] != found["heat_map"]
    status, answer, _ = service.predict(good, query="?explain=cat")
    assert status == 400 and "cat" in answer["detail"]


def test_the_addresses_are_described(service):
    status, page, _ = service.ask("GET", "/docs")
    assert status == 200 and b"https://" not in page  # nothing is fetched from elsewhere
    _, schema, _ = service.ask("GET", "/openapi.json")
    assert {"/predict", "/model", "/healthz", "/metrics"} == set(schema["paths"])
    assert "multipart/form-data" in schema["paths"]["/predict"]["post"]["requestBody"]["content"]
    _, model, _ = service.ask("GET", "/model")
    assert len(model["classes"]) == 6 and model["max_bytes"] == 200_000 and not model["multi_label"]


@pytest.mark.parametrize("path", ["/model", "/healthz", "/nothing", "/predict"])
def test_json_ends_with_a_newline(service, path):
    answer = answer_of(service.begin(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode()))
    assert b"application/json" in answer and answer.endswith(b"}\n")


@pytest.mark.slow
def test_a_service_without_heat_maps_says_why(model_folder, pictures, tmp_path):
    pytest.importorskip("onnxruntime", reason="without the extra `export`")
    from fasttrain.export.export import export

    file = export(model_folder, "onnx", tmp_path / "model.onnx", photographs=6, speed=False).path
    with serving(file, tmp_path) as service:
        status, answer, _ = service.predict(pictures[0].read_bytes(), query="?explain=")
        assert status == 400 and "an exported file has no gradients; serve the run folder" in answer["detail"]
        assert service.ask("GET", "/model")[1]["explains"] is False


@pytest.mark.slow
def test_a_token_is_asked_for(model_folder, pictures, tmp_path):
    good = pictures[0].read_bytes()
    with serving(model_folder, tmp_path, FASTTRAIN_SERVE_TOKEN="sécret") as service:
        wrong = {"Authorization": "Bearer secret"}
        right = {"Authorization": "Bearer sécret".encode().decode("latin-1")}
        for path, method in [("/predict", "POST"), ("/model", "GET"), ("/metrics", "GET")]:
            for headers, reason in (
                ({}, "needs"),
                (wrong, "wrong"),
                ({"Authorization": "Basic c8OpY3JldA=="}, "needs"),
            ):
                status, answer, answered = service.ask(method, path, good if method == "POST" else None, headers)
                assert status == 401 and answered["WWW-Authenticate"] == "Bearer" and reason in answer["detail"]
            assert service.ask(method, path, good if method == "POST" else None, right)[0] == 200
        for path in ("/", "/healthz"):
            assert service.ask("GET", path)[0] == 200


@pytest.mark.slow
def test_slow_clients_are_not_waited_for(model_folder, tmp_path):
    with serving(model_folder, tmp_path, "--timeout", "1") as service:
        assert answer_of(service.begin(b"")) == b""
        assert answer_of(service.begin(b"POST /predict HTTP/1.1\r\nHost: ")) == b""
        slow = answer_of(service.begin(head(1000) + b"some"))
        assert slow.startswith(b"HTTP/1.1 408") and b"took longer than 1 s" in slow
        unread = service.begin(head(10_000_000_000) + b"some")  # an answer came, the body never does
        assert answer_of(unread).startswith(b"HTTP/1.1 413")
        endless = service.begin(b"GET / HTTP/1.1\r\nx: ")
        with pytest.raises(OSError), endless:
            for _ in range(1000):
                endless.sendall(b"x" * 65_536)
        assert service.ask("GET", "/healthz")[0] == 200


@pytest.mark.slow
def test_sigterm_answers_what_is_in_work(model_folder, pictures, tmp_path):
    good = pictures[0].read_bytes()
    with serving(model_folder, tmp_path) as service:
        upload = service.begin(head(len(good)) + good[:100])
        service.wait_for_queue(1)
        idle = service.begin(b"")
        service.process.send_signal(signal.SIGTERM)
        assert answer_of(idle) == b""
        upload.sendall(good[100:])
        answer = answer_of(upload)
        assert answer.startswith(b"HTTP/1.1 200") and b'"top"' in answer
        assert service.process.wait(PATIENCE) == 0
        with pytest.raises(ConnectionError):
            service.begin(b"")
    assert (tmp_path / "errors.txt").read_text().count("\n") == 1
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["status"] == 200
