import asyncio
import contextlib
import http.server
import json
import os
import random
import re
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving")

from tensorflow.core.framework import tensor_pb2  # noqa: E402
from tensorflow_serving.apis import predict_pb2  # noqa: E402

from keras_attn.export import client  # noqa: E402
from tests.export.small import WORDS, ask_here  # noqa: E402

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

TEXTS = ["the [MASK] sat on a [MASK].", "", "Playing!", "[MASK]"]


@pytest.fixture(scope="module", params=["grpc", "http"])
def ask(request, server):
    """A client over each transport."""
    port = server.grpc_port if request.param == "grpc" else server.rest_port
    made = client.Client(f"{request.param}://127.0.0.1:{port}", server.name)
    made.address = f"{request.param}://127.0.0.1:{port}"
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(servable):
    return ask_here(servable.path, text=TEXTS)


def test_the_warm_up_file_covers_every_signature_and_length(server, servable):
    # three rows of 11 tokens, then one row each of 16 and of the whole length, 19
    assert server.warmed == 3 * len(servable.signatures)


def test_client_outputs_equal_those_of_the_graph(ask, expected):
    got = ask(text=TEXTS)
    assert got["tokens"] == [
        [[token.decode() for token in mask] for mask in row] for row in expected["tokens"].tolist()
    ]
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)


def test_the_client_lists_the_signatures(ask):
    inputs, outputs = ask.signatures()["tokens"]
    assert inputs == {"token_ids": "int32", "lengths": "int32"}
    assert outputs == {"tokens": "string", "pieces": "string", "probabilities": "float32"}


def test_numeric_inputs_and_outputs_are_transferred(ask):
    got = ask("tokens", token_ids=[[2, 4, 3], [2, 3, 0]], lengths=[3, 2])
    assert len(got["tokens"]) == 2
    assert got["tokens"][1] == [["", ""]]
    weights = ask("attention", text=["the cat"])["block_0"]
    assert np.shape(weights) == (1, 3, 4, 4)


def test_server_errors_are_raised_with_their_message(ask):
    with pytest.raises(client.ServingError, match="vocabulary of 15"):
        ask("tokens", token_ids=[[2, 99]], lengths=[2])
    with pytest.raises(client.ServingError, match=r"takes \['text'\], got \['words'\]"):
        ask(words=["a"])
    with pytest.raises(client.ServingError, match="`signature` must be one of .*embed"):
        ask("nothing", text=["a"])


def test_a_busy_server_is_retried(ask, server):
    server.busy = 2
    assert ask(text=["a"])["tokens"] == [[]]
    assert server.busy == 0


def test_a_server_that_stays_busy_raises(ask, server):
    hurried = client.Client(ask.address, server.name, retries=1)
    hurried.signatures()
    server.busy = 5
    with pytest.raises(client.ServingError, match="no answer from the server: .*busy"):
        hurried(text=["a"])
    assert server.busy == 3
    server.busy = 0


def test_a_slow_server_raises_after_the_timeout(ask, server):
    hurried = client.Client(ask.address, server.name, timeout=0.3)
    hurried.signatures()
    server.slow.set()
    with pytest.raises(client.ServingError, match="no answer within|DEADLINE_EXCEEDED"):
        hurried(text=["a"])
    server.slow.clear()
    assert hurried(text=["a"])["tokens"] == [[]]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "the answer is not JSON"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{", "no answer from the server"),
        (b"", "no answer from the server"),
        (b"SSH-2.0\r\n", "no answer from the server"),
        (
            b"HTTP/1.0 404 Not Found\r\n\r\nno such",
            "the server refused the request, NOT_FOUND: no such",
        ),
    ],
)
def test_malformed_responses_raise(answer, message):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as odd:
        threading.Thread(target=odd.serve_forever, daemon=True).start()
        asking = client.Client(f"http://127.0.0.1:{odd.server_address[1]}", "bert", retries=0)
        with pytest.raises(client.ServingError, match=message):
            asking(text=["a"])
        odd.shutdown()


def test_a_missing_server_raises_within_the_timeout():
    for scheme in ("grpc", "http"):
        missing = client.Client(f"{scheme}://127.0.0.1:9", "bert", timeout=1.0, retries=1)
        with pytest.raises(client.ServingError, match="no answer"):
            missing(text=["a"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the cat " * 12_800,  # 100 kB
        b"\xff\xfe the [MASK] \x80",
        "猫が座った \U0001f600 кошка",
        "\x00\x07\u200b",
        "[MASK] " * 40,
    ],
    ids=["empty", "long", "not UTF-8", "other scripts", "controls", "masks"],
)
def test_unusual_texts_are_served(ask, text):
    alone = ask(text=[text])
    beside = ask(text=[text, "the [MASK] sat"])
    (alone,) = alone["probabilities"]
    beside = beside["probabilities"][0][: len(alone)]
    assert len(beside) == len(alone)
    np.testing.assert_allclose(np.ravel(beside), np.ravel(alone), atol=1e-4)


def test_concurrent_requests_get_their_own_outputs(ask, expected):
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(12):
            chosen = rng.sample(range(len(TEXTS)), rng.randint(1, len(TEXTS)))
            got = ask(text=[TEXTS[row] for row in chosen])["probabilities"]
            for row, mine in zip(chosen, got, strict=True):
                if mine and not np.allclose(mine, expected["probabilities"][row, : len(mine)]):
                    wrong.append((row, mine))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_rest_rows_and_columns_agree(server):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{server.name}:predict"

    def curl(body):
        done = subprocess.run(["curl", "-s", "-d", json.dumps(body), url], capture_output=True)
        return json.loads(done.stdout)

    columns = curl({"inputs": {"text": TEXTS}})["outputs"]
    rows = curl({"instances": [{"text": text} for text in TEXTS]})["predictions"]
    assert [row["tokens"] for row in rows] == columns["tokens"]
    assert curl({"instances": TEXTS})["predictions"] == rows


def test_the_curl_command_of_the_readme_works(server, servable):
    readme = (servable.path.parent / "README.md").read_text()
    (body,) = re.findall(r"curl .* -d '(.*)'", readme)
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{server.name}:predict"
    done = subprocess.run(["curl", "-s", "-d", body, url], capture_output=True)
    assert "tokens" in json.loads(done.stdout)["outputs"]
    assert "tensorflow/serving:2.19.0" in readme


def test_the_grpc_example_of_the_readme_works(server, servable, tmp_path):
    readme = (servable.path.parent / "README.md").read_text()
    (lines,) = re.findall(r"\n    from client import Client\n    (.*)\n", readme)
    shutil.copytree(Path(client.__file__).parent, tmp_path / "client")
    script = f"from client import Client\nprint({lines})".replace("8500", str(server.grpc_port))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "tokens" in done.stdout


def resident():
    """The resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_ten_thousand_requests_do_not_leak_memory(server):
    rng, held = random.Random(0), []
    grpc_client = client.Client(f"grpc://127.0.0.1:{server.grpc_port}", server.name)
    for number in range(10_001):
        if number % 2000 == 0:
            held.append(resident())
        words = [" ".join(rng.choices(WORDS, k=rng.randint(0, 30))) for _ in range(4)]
        rows = words[: rng.randint(1, 4)]
        assert len(grpc_client(text=rows)["tokens"]) == len(rows)
    grpc_client.close()
    assert held[-1] - held[1] < 8, held


def test_requests_can_be_parsed_by_tensorflow_serving():
    ours = client.predict_request(
        {"name": "bert", "version": {"value": 7}, "signature_name": "s"},
        {"t": ["a", b"\xff"], "n": [[1, -2, 3]], "f": [0.5], "b": [True]},
        {"t": "string", "n": "int64", "f": "float32", "b": "bool"},
    )
    real = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert (real.model_spec.name, real.model_spec.version.value) == ("bert", 7)
    assert real.model_spec.signature_name == "s"
    assert tf.make_ndarray(real.inputs["t"]).tolist() == [b"a", b"\xff"]
    assert tf.make_ndarray(real.inputs["n"]).tolist() == [[1, -2, 3]]
    assert tf.make_ndarray(real.inputs["f"]).tolist() == [0.5]
    assert tf.make_ndarray(real.inputs["b"]).tolist() == [True]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="float32").reshape(2, 3),
        np.arange(6, dtype="int64").reshape(3, 2, 1),
        np.array([["a"], [b"\xff"]], object),
        np.zeros((2, 0, 3), "float32"),
        np.float64(2.5),
        np.full((4,), 7, "int32"),
    ],
    ids=["matrix", "rank 3", "strings", "empty", "scalar", "equal values"],
)
def test_tensors_of_tensorflow_can_be_parsed(array):
    wire = tf.make_tensor_proto(array).SerializeToString()
    got = client.from_tensor(client.message("Tensor").FromString(wire))
    assert got == [["a"], [b"\xff"]] if array.dtype == object else got == array.tolist()


def test_values_that_cannot_be_sent_raise():
    with pytest.raises(client.ServingError, match="rows of equal length"):
        client.to_tensor([[1, 2], [3]], "int32")
    with pytest.raises(client.ServingError, match="`value` must be of type int32, got 'a'"):
        client.to_tensor(["a"], "int32")
    with pytest.raises(ValueError, match="`address` must be"):
        client.Client("localhost:8500", "bert")


def test_the_client_folder_works_without_the_package(tmp_path, server):
    shutil.copytree(Path(client.__file__).parent, tmp_path / "client")
    script = f"""
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = sys.modules["numpy"] = None
from client import Client
for address in ("grpc://127.0.0.1:{server.grpc_port}", "http://127.0.0.1:{server.rest_port}"):
    print(Client(address, "{server.name}")(text=["the [MASK]"])["tokens"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == second


def test_a_trickling_response_raises_after_the_timeout():
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b" ")
                    time.sleep(0.1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as slow:
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        asking = client.Client(f"http://127.0.0.1:{slow.server_address[1]}", "bert", timeout=0.7)
        begun = time.monotonic()
        with pytest.raises(client.ServingError, match="no answer within 0.7 s"):
            asking(text=["a"])
        assert time.monotonic() - begun < 3
        slow.shutdown()


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        (
            "serving_default",
            {"text": []},
            r"`text` must have the shape \[\?\] and at least one row",
        ),
        ("serving_default", {"text": "a"}, r"`text` must have the shape \[\?\], got \[\]"),
        ("serving_default", {"text": [None]}, "`text` must be of type string, got None"),
        ("serving_default", {"text": ["\ud800"]}, "`text` has a value that is not a valid string"),
        (
            "tokens",
            {"token_ids": [[2**31]], "lengths": [1]},
            "has a value that is not a valid int32",
        ),
        ("tokens", {"token_ids": [[1.5]], "lengths": [1]}, "must be of type int32, got 1.5"),
        ("tokens", {"token_ids": [[True]], "lengths": [1]}, "must be of type int32, got True"),
        ("tokens", {"token_ids": [[1], [2, 3]], "lengths": [1]}, "must have rows of equal length"),
        (
            "tokens",
            {"token_ids": [1], "lengths": [1]},
            r"must have the shape \[\?, \?\], got \[1\]",
        ),
    ],
)
def test_both_transports_raise_the_same_errors(ask, signature, inputs, message):
    with pytest.raises(client.ServingError, match=message):
        ask(signature, **inputs)


def test_status_and_async_calls_work(ask, server):
    assert ask.status() == {server.version: "AVAILABLE"}
    assert ask.ready()
    assert not client.Client(ask.address, server.name, version=9).ready()
    assert asyncio.run(ask.call_async(text=["a"])) == ask(text=["a"])


def test_a_missing_server_is_not_ready_and_a_closed_client_raises(ask, server):
    scheme = ask.address.partition(":")[0]
    assert not client.Client(f"{scheme}://127.0.0.1:9", "bert", timeout=0.5, retries=0).ready()
    with client.Client(ask.address, server.name) as closed:
        closed.signatures()
    with pytest.raises(client.ServingError, match="the client is closed"):
        closed(text=["a"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": None}, "`address` must be .*got None"),
        ({"address": "http://"}, "`address` must be"),
        ({"address": "http://host:port"}, "`address` must be"),
        ({"model": ""}, "`model` must be a name, got ''"),
        ({"retries": -1}, "`retries` must be an integer from 0, got -1"),
        ({"timeout": 0}, "`timeout` must be a number of seconds above 0, got 0"),
        ({"timeout": float("nan")}, "`timeout` must be"),
        ({"version": -1}, "`version` must be an integer from 0, got -1"),
        ({"retries": True}, "`retries` must be an integer from 0, got True"),
        ({"label": 3}, "`label` must be a name, got 3"),
        ({"headers": "x"}, "`headers` must be a dict or None, got 'x'"),
        ({"headers": {"a": 3}}, r"`headers` must be printable ASCII text, got \('a', 3\)"),
        ({"headers": {"a": "b\r\nc: d"}}, "`headers` must be printable ASCII text, got"),
        ({"certificate": "one.pem"}, "`certificate` must be the paths of .*, got 'one.pem'"),
        *(
            (
                {"address": f"{scheme}://localhost:1", **files},
                "must be PEM files, got .*No such fil",
            )
            for scheme in ("https", "grpcs")
            for files in ({"ca_file": "/none"}, {"certificate": ("/none", "/none")})
        ),
        ({"version": 1, "label": "stable"}, "`version` must be None if `label` is given"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        client.Client(**{"address": "http://localhost:8501", "model": "bert", **arguments})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint8", "int8", "int16", "uint32"])
def test_every_numeric_dtype_is_transferred(dtype):
    values = tf.cast(tf.constant([0.0, 1.0, 3.0, 100.0, 1.0, 1.0]), dtype)
    real = tensor_pb2.TensorProto.FromString(
        client.to_tensor(
            values.numpy().astype(float if "float" in dtype else int), dtype
        ).SerializeToString()
    )
    assert tf.make_ndarray(real).astype("float64").tolist() == [0, 1, 3, 100, 1, 1]
    for proto in (tf.make_tensor_proto(values), real):
        got = client.from_tensor(client.message("Tensor").FromString(proto.SerializeToString()))
        assert got == [0, 1, 3, 100, 1, 1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The files of a certificate for localhost and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-keyout", key, "-out", certificate, "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_tls_certificates_are_verified(certificate):
    certificate, key = certificate
    seen = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.update(self.headers)
            body = b'{"model_version_status": [{"version": "3", "state": "LOADING"}]}'
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keep the test's output quiet."""

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        threading.Thread(target=secure.serve_forever, daemon=True).start()
        address = f"https://localhost:{secure.server_port}"
        trusting = client.Client(
            address, "bert", ca_file=certificate, headers={"Authorization": "Bearer x"}
        )
        assert trusting.status() == {3: "LOADING"}
        assert not trusting.ready()
        assert seen["Authorization"] == "Bearer x"
        with pytest.raises(client.ServingError, match="no secure connection .*CERTIFICATE_VERIFY"):
            client.Client(address, "bert").status()
        secure.shutdown()


def test_grpc_tls_verifies_server_and_client(server, certificate):
    grpc = pytest.importorskip("grpc")
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    chain, key = (path.read_bytes() for path in certificate)
    secure = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(server, secure)
    # The server also requires a certificate and trusts only this one.
    credentials = grpc.ssl_server_credentials([(key, chain)], chain, require_client_auth=True)
    address = f"grpcs://localhost:{secure.add_secure_port('localhost:0', credentials)}"
    secure.start()
    try:
        known = {"ca_file": certificate[0], "certificate": certificate}
        with client.Client(address, server.name, **known) as trusted:
            assert trusted(text=["a"])["tokens"] == [[]]
        for missing in ("ca_file", "certificate"):
            given = {name: value for name, value in known.items() if name != missing}
            incomplete = client.Client(address, server.name, retries=0, timeout=5, **given)
            with incomplete, pytest.raises(client.ServingError, match="no answer from|no secure"):
                incomplete(text=["a"])
    finally:
        secure.stop(None).wait()
