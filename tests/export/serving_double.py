"""A stand-in for ModelServer: PredictionService over gRPC and REST, on TF Serving's own messages.

It loads the newest version in a session, replays the warm-up file as ModelServer does before it
reports that it is ready, and writes JSON as ModelServer does: a single output without its name,
rows as "predictions", columns as "outputs".
"""

import base64
import json
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  # its operations, which a ModelServer has
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)


class Double(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Serves the newest version in a folder; use it as a context manager."""

    def __init__(self, base_dir):
        self.name = Path(base_dir).name
        versions = [int(p.name) for p in Path(base_dir).iterdir() if p.name.isdecimal()]
        folder = Path(base_dir, str(max(versions)))
        self.version = max(versions)
        self.busy = 0  # how many requests to reject
        self.slow = threading.Event()  # while it is set, responses wait
        with tf.Graph().as_default():
            self.session = tf.compat.v1.Session()
            loaded = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        self.signatures = loaded.signature_def
        self.warmed = 0
        warmup = folder / "assets.extra" / "tf_serving_warmup_requests"
        for record in tf.compat.v1.io.tf_record_iterator(str(warmup)):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            assert log.WhichOneof("log_type") == "predict_log"
            self.answer(log.predict_log.request)
            self.warmed += 1
        self.grpc = grpc.server(futures.ThreadPoolExecutor(8))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self.grpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Status(self), self.grpc)
        self.grpc_port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.rest = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Rest,), {"double": self}))
        self.rest_port = self.rest.server_port

    def __enter__(self):
        self.grpc.start()
        threading.Thread(target=self.rest.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.grpc.stop(None).wait()
        self.rest.shutdown()
        self.rest.server_close()
        self.session.close()

    def run(self, name, inputs):
        """The outputs of a signature, as arrays."""
        if name not in self.signatures:
            raise ValueError(f'Serving signature name: "{name}" not found in signature def')
        while self.slow.is_set():
            time.sleep(0.01)
        signature = self.signatures[name]
        if set(inputs) != set(signature.inputs):
            raise ValueError(f"input size does not match signature: {sorted(inputs)}")
        feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
        fetches = {key: info.name for key, info in signature.outputs.items()}
        return self.session.run(fetches, feeds)

    def answer(self, request):
        """A PredictResponse."""
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for key, value in self.run(request.model_spec.signature_name, inputs).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def Predict(self, request, context):  # noqa: N802 - gRPC's name
        if self.busy:
            self.busy -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.model_spec.name}")
        try:
            return self.answer(request)
        except (ValueError, tf.errors.OpError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def GetModelMetadata(self, request, context):  # noqa: N802 - gRPC's name
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self.signatures.items():
            found.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(found)
        return response


class _Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, double):
        self.double = double

    def GetModelStatus(self, request, context):  # noqa: N802 - gRPC's name
        response = get_model_status_pb2.GetModelStatusResponse()
        state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        response.model_version_status.add(version=self.double.version, state=state)
        return response


class _Rest(BaseHTTPRequestHandler):
    double = None

    def do_GET(self):
        if not self.path.endswith("/metadata"):
            status = {"version": str(self.double.version), "state": "AVAILABLE"}
            self._reply(200, {"model_version_status": [status]})
            return
        signatures = {
            name: {part: _types(getattr(signature, part)) for part in ("inputs", "outputs")}
            for name, signature in self.double.signatures.items()
            if not name.startswith("__")
        }
        self._reply(200, {"metadata": {"signature_def": {"signature_def": signatures}}})

    def do_POST(self):
        if self.double.busy:
            self.double.busy -= 1
            self._reply(503, {"error": "busy"})
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body.get("signature_name", "serving_default")
        try:
            if self.path != f"/v1/models/{self.double.name}:predict":
                raise ValueError(f"no model at {self.path}")
            self._reply(200, self._predict(name, body))
        except (ValueError, KeyError, tf.errors.OpError) as error:
            self._reply(400, {"error": str(error)})

    def _predict(self, name, body):
        wanted = self.double.signatures[name].inputs
        if "instances" in body:
            rows = body["instances"]
            if not isinstance(rows[0], dict) or set(rows[0]) == {"b64"}:
                (key,) = wanted
                rows = [{key: row} for row in rows]
            columns = {key: [row[key] for row in rows] for key in rows[0]}
        else:
            columns = body["inputs"]
            if not isinstance(columns, dict):
                columns = {next(iter(wanted)): columns}
        inputs = {
            key: np.array(_plain(value), tf.DType(wanted[key].dtype).as_numpy_dtype)
            for key, value in columns.items()
        }
        outputs = {key: _json(value) for key, value in self.double.run(name, inputs).items()}
        if "instances" not in body:
            only = next(iter(outputs.values())) if len(outputs) == 1 else outputs
            return {"outputs": only}
        rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
        if len(outputs) == 1:
            rows = [next(iter(row.values())) for row in rows]
        return {"predictions": rows}

    def _reply(self, code, answer):
        text = json.dumps(answer, allow_nan=False).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Keep the test's output quiet."""


def _types(tensors):
    return {
        key: {
            "dtype": types_pb2.DataType.Name(info.dtype),
            "tensor_shape": {
                "dim": [{"size": str(dim.size), "name": ""} for dim in info.tensor_shape.dim],
                "unknown_rank": info.tensor_shape.unknown_rank,
            },
        }
        for key, info in tensors.items()
    }


def _plain(value):
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value.encode() if isinstance(value, str) else value


def _json(array):
    if array.dtype == object:
        flat = [value.decode() for value in array.ravel()]
        return np.array(flat, object).reshape(array.shape).tolist()
    return array.tolist()
