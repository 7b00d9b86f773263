"""Asks a TF Serving model server, over REST or gRPC, with plain Python values.

This file stands alone: copy it to a machine that has neither keras nor tensorflow. REST needs the
standard library only, gRPC the packages grpcio and protobuf. TensorFlow's own message classes
import tensorflow, so the few messages that are needed are described here, in a private pool; on the
wire they are the same.

    python client.py http://localhost:8501 NAME "The capital of France is [MASK]."
"""

import base64
import functools
import http.client
import json
import math
import struct
import sys
import time
import urllib.error
import urllib.request

# tensorflow/core/framework/types.proto: number, struct's letter, the field of TensorProto
_TYPES = {
    "float32": (1, "f", "float_val"),
    "float64": (2, "d", "double_val"),
    "int32": (3, "i", "int_val"),
    "string": (7, None, "string_val"),
    "int64": (9, "q", "int64_val"),
    "bool": (10, "?", "bool_val"),
}
_NUMBERS = {number: name for name, (number, _, _) in _TYPES.items()}

# Message: (field, number, type), a type in brackets is repeated, "{M}" a map from strings to M.
# From tensorflow/core/framework and tensorflow_serving/apis.
_MESSAGES = {
    "Dim": [("size", 1, "int64")],
    "Shape": [("dim", 2, "[Dim]")],
    "Tensor": [
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "Shape"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "[float]"),
        ("double_val", 6, "[double]"),
        ("int_val", 7, "[int32]"),
        ("string_val", 8, "[bytes]"),
        ("int64_val", 10, "[int64]"),
        ("bool_val", 11, "[bool]"),
    ],
    "Version": [("value", 1, "int64")],
    "ModelSpec": [
        ("name", 1, "string"),
        ("version", 2, "Version"),
        ("signature_name", 3, "string"),
    ],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "{Tensor}")],
    "PredictResponse": [("outputs", 1, "{Tensor}"), ("model_spec", 2, "ModelSpec")],
    "TensorInfo": [("dtype", 2, "int32"), ("tensor_shape", 3, "Shape")],
    "SignatureDef": [("inputs", 1, "{TensorInfo}"), ("outputs", 2, "{TensorInfo}")],
    "SignatureDefMap": [("signature_def", 1, "{SignatureDef}")],
    "Any": [("type_url", 1, "string"), ("value", 2, "bytes")],
    "MetadataRequest": [("model_spec", 1, "ModelSpec"), ("metadata_field", 2, "[string]")],
    "MetadataResponse": [("model_spec", 1, "ModelSpec"), ("metadata", 2, "{Any}")],
    "PredictLog": [("request", 1, "PredictRequest"), ("response", 2, "PredictResponse")],
    "PredictionLog": [("predict_log", 6, "PredictLog")],
}


class ServingError(RuntimeError):
    """The server refused the request, or could not be reached in time."""


class Client:
    """One model on one server.

    Args:
        address: "http://HOST:8501" for REST, "grpc://HOST:8500" for gRPC.
        model: the name under which the server has it.
        version: which version; the server's newest by default.
        timeout: seconds that a call may take, its retries included.
        retries: how often to try again where the server is not there or busy.
    """

    def __init__(self, address, model, version=None, timeout=10.0, retries=3):
        scheme, _, host = address.partition("://")
        if scheme not in ("http", "https", "grpc") or not host:
            raise ValueError(f"`address` must be http://HOST:PORT or grpc://..., got {address!r}")
        self.model, self.version, self.timeout, self.retries = model, version, timeout, retries
        transport = _Grpc if scheme == "grpc" else _Rest
        self._transport = transport(host if scheme == "grpc" else address, model, version)

    def __call__(self, signature="serving_default", **inputs):
        """The outputs by name, as nested lists, for inputs by name, as nested lists.

        Text may be str or bytes. Raises ServingError with the server's words.
        """
        specs = self.signatures()
        if signature not in specs:
            raise ServingError(f"`signature` must be one of {', '.join(specs)}, got {signature!r}")
        wanted, outputs = specs[signature]
        if set(inputs) != set(wanted):
            raise ServingError(f"{signature} takes {sorted(wanted)}, got {sorted(inputs)}")
        return self._retry(self._transport.predict, signature, inputs, wanted, outputs)

    def signatures(self):
        """Name to `(inputs, outputs)`, each a dict from a name to its type, such as "int64"."""
        if not hasattr(self, "_signatures"):
            self._signatures = self._retry(self._transport.signatures)
        return self._signatures

    def close(self):
        """Closes the connection."""
        self._transport.close()

    def _retry(self, call, *arguments):
        deadline, pause = time.monotonic() + self.timeout, 0.1
        for attempt in range(self.retries + 1):
            try:
                return call(*arguments, timeout=max(0.001, deadline - time.monotonic()))
            except _UnavailableError as error:
                if attempt == self.retries or time.monotonic() + pause >= deadline:
                    raise ServingError(f"no answer from the server: {error}") from error
                time.sleep(pause)
                pause *= 2
        return None


class _UnavailableError(Exception):
    """Worth another try."""


class _Rest:
    def __init__(self, address, model, version):
        self.url = f"{address.rstrip('/')}/v1/models/{model}"
        if version is not None:
            self.url += f"/versions/{version}"

    def predict(self, signature, inputs, wanted, outputs, timeout):
        body = {"signature_name": signature, "inputs": _map(_to_json, inputs)}
        answer = self._send(f"{self.url}:predict", json.dumps(body).encode(), timeout)["outputs"]
        if len(outputs) == 1:  # then the server leaves out its name
            answer = {next(iter(outputs)): answer}
        return _map(_from_json, answer)

    def signatures(self, timeout):
        metadata = self._send(f"{self.url}/metadata", None, timeout)["metadata"]
        signatures = metadata["signature_def"]["signature_def"]
        return {
            name: tuple(
                {key: _json_type(info["dtype"]) for key, info in signature[part].items()}
                for part in ("inputs", "outputs")
            )
            for name, signature in signatures.items()
            if not name.startswith("__")
        }

    def _send(self, url, body, timeout):
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code in (429, 503):
                raise _UnavailableError(text) from error
            raise ServingError(f"HTTP {error.code}: {text}") from error
        except TimeoutError as error:
            raise ServingError(f"no answer within {timeout:.3g} s") from error
        except json.JSONDecodeError as error:
            raise ServingError(f"the answer is not JSON: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise ServingError(f"no answer within {timeout:.3g} s") from error
            raise _UnavailableError(str(error)) from error

    def close(self):
        """There is nothing to close: each request has its own connection."""


class _Grpc:
    def __init__(self, host, model, version):
        import grpc

        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(host, options=unlimited)
        self.spec = {"name": model}
        if version is not None:
            self.spec["version"] = {"value": version}

    def predict(self, signature, inputs, wanted, outputs, timeout):
        request = predict_request({**self.spec, "signature_name": signature}, inputs, wanted)
        response = self._send("Predict", request, "PredictResponse", timeout)
        return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}

    def signatures(self, timeout):
        request = message("MetadataRequest")(model_spec=self.spec, metadata_field=["signature_def"])
        response = self._send("GetModelMetadata", request, "MetadataResponse", timeout)
        found = message("SignatureDefMap").FromString(response.metadata["signature_def"].value)
        return {
            name: tuple(
                {key: _NUMBERS.get(info.dtype, info.dtype) for key, info in part.items()}
                for part in (signature.inputs, signature.outputs)
            )
            for name, signature in found.signature_def.items()
            if not name.startswith("__")
        }

    def _send(self, method, request, response, timeout):
        import grpc

        call = self.channel.unary_unary(
            f"/tensorflow.serving.PredictionService/{method}",
            request_serializer=lambda value: value.SerializeToString(),
            response_deserializer=message(response).FromString,
        )
        try:
            return call(request, timeout=timeout)
        except grpc.RpcError as error:
            busy = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
            if error.code() in busy:
                raise _UnavailableError(error.details()) from error
            raise ServingError(f"{error.code().name}: {error.details()}") from error

    def close(self):
        self.channel.close()


def predict_request(spec, inputs, dtypes):
    """A PredictRequest message."""
    request = message("PredictRequest")(model_spec=spec)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(value, dtypes[name]))
    return request


def to_tensor(value, dtype):
    """A nested list as a Tensor message."""
    if dtype not in _TYPES:
        raise ServingError(f"values of type {dtype} cannot be sent")
    number, letter, _ = _TYPES[dtype]
    shape, flat = _flatten(value)
    tensor = message("Tensor")(dtype=number, tensor_shape={"dim": [{"size": n} for n in shape]})
    try:
        if letter is None:
            tensor.string_val.extend(v.encode() if isinstance(v, str) else v for v in flat)
        else:
            tensor.tensor_content = struct.pack(f"<{len(flat)}{letter}", *flat)
    except (TypeError, struct.error) as error:
        raise ServingError(f"a value is not of type {dtype}: {error}") from error
    return tensor


def from_tensor(tensor):
    """A Tensor message as nested lists; strings decoded where they are UTF-8."""
    if tensor.dtype not in _NUMBERS:
        raise ServingError(f"the answer has the unknown type {tensor.dtype}")
    _, letter, field = _TYPES[_NUMBERS[tensor.dtype]]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    count = math.prod(shape)
    flat = list(getattr(tensor, field))
    if tensor.tensor_content:
        flat = list(struct.unpack(f"<{count}{letter}", tensor.tensor_content))
    if letter is None:
        flat = [_text(value) for value in flat]
    flat += flat[-1:] * (count - len(flat))  # equal values at the end may be left out
    return _nest(flat, shape)


def _nest(flat, shape):
    if not shape:
        return flat[0]
    size = len(flat) // shape[0] if shape[0] else 0
    return [_nest(flat[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


@functools.cache
def message(name):
    """The class of a message in `_MESSAGES`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"wire.{name}"))


@functools.cache
def _pool():
    from google.protobuf import descriptor_pb2, descriptor_pool

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="wire", package="wire", syntax="proto3")

    def add_field(target, name, number, spelled):
        field = target.field.add(name=name, number=number, label=kind.LABEL_OPTIONAL)
        if spelled[0] in "[{":
            field.label = kind.LABEL_REPEATED
        inner = spelled.strip("[]{}")
        if spelled[0] == "{":
            entry = target.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
            entry.options.map_entry = True
            add_field(entry, "key", 1, "string")
            add_field(entry, "value", 2, inner)
            inner = f"{target.name}.{entry.name}"
        if spelled[0] == "{" or inner in _MESSAGES:
            field.type, field.type_name = kind.TYPE_MESSAGE, f".wire.{inner}"
        else:
            field.type = getattr(kind, f"TYPE_{inner.upper()}")

    for name, fields in _MESSAGES.items():
        target = file.message_type.add(name=name)
        for field in fields:
            add_field(target, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _flatten(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [], [value]
    parts = [_flatten(item) for item in value]
    shapes = [shape for shape, _ in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise ServingError(f"a nested list must have rows of one length, got {shapes[:4]}")
    inner = shapes[0] if shapes else []
    return [len(value), *inner], [item for _, flat in parts for item in flat]


def _map(function, values):
    return {name: function(value) for name, value in values.items()}


def _to_json(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value):
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict) and set(value) == {"b64"}:
        return _text(base64.b64decode(value["b64"]))
    return value


def _json_type(name):
    names = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64"}
    return names.get(name, name.removeprefix("DT_").lower())


def _text(value):
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


if __name__ == "__main__":
    address, model, *texts = sys.argv[1:]
    print(json.dumps(Client(address, model)(text=texts), ensure_ascii=False, indent=1))
