"""Asks a TF Serving model server, over REST or gRPC, with plain Python values.

This file stands alone: copy it to a machine that has neither keras nor tensorflow. REST needs the
standard library only, gRPC the packages grpcio and protobuf. TensorFlow's own message classes
import tensorflow, so the few messages that are needed are described here, in a private pool; on the
wire they are the same.

    python client.py http://localhost:8501 NAME "The capital of France is [MASK]."
"""

import argparse
import asyncio
import base64
import contextlib
import functools
import http.client
import importlib
import io
import json
import math
import socket
import ssl
import struct
import time
import urllib.parse

# tensorflow/core/framework/types.proto: number, struct's letter, the field of TensorProto
_TYPES = {
    "float32": (1, "f", "float_val"),
    "float64": (2, "d", "double_val"),
    "int32": (3, "i", "int_val"),
    "uint8": (4, "B", "int_val"),
    "int16": (5, "h", "int_val"),
    "int8": (6, "b", "int_val"),
    "string": (7, None, "string_val"),
    "int64": (9, "q", "int64_val"),
    "bool": (10, "?", "bool_val"),
    "bfloat16": (14, "H", "half_val"),  # the upper half of a float32
    "uint16": (17, "H", "int_val"),
    "float16": (19, "e", "half_val"),
    "uint32": (22, "I", "uint32_val"),
    "uint64": (23, "Q", "uint64_val"),
}
_NUMBERS = {number: name for name, (number, _, _) in _TYPES.items()}
_JSON_TYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}

# Message: (field, number, type), a type in brackets is repeated, "{M}" a map from strings to M.
# From tensorflow/core/framework and tensorflow_serving/apis.
_MESSAGES = {
    "Dim": [("size", 1, "int64")],
    "Shape": [("dim", 2, "[Dim]"), ("unknown_rank", 3, "bool")],
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
        ("half_val", 13, "[int32]"),
        ("uint32_val", 16, "[uint32]"),
        ("uint64_val", 17, "[uint64]"),
    ],
    "Version": [("value", 1, "int64")],
    "ModelSpec": [
        ("name", 1, "string"),
        ("version", 2, "Version"),
        ("signature_name", 3, "string"),
        ("version_label", 4, "string"),
    ],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "{Tensor}")],
    "PredictResponse": [("outputs", 1, "{Tensor}"), ("model_spec", 2, "ModelSpec")],
    "TensorInfo": [("dtype", 2, "int32"), ("tensor_shape", 3, "Shape")],
    "SignatureDef": [("inputs", 1, "{TensorInfo}"), ("outputs", 2, "{TensorInfo}")],
    "SignatureDefMap": [("signature_def", 1, "{SignatureDef}")],
    "Any": [("type_url", 1, "string"), ("value", 2, "bytes")],
    "MetadataRequest": [("model_spec", 1, "ModelSpec"), ("metadata_field", 2, "[string]")],
    "MetadataResponse": [("model_spec", 1, "ModelSpec"), ("metadata", 2, "{Any}")],
    "StatusRequest": [("model_spec", 1, "ModelSpec")],
    "VersionStatus": [("version", 1, "int64"), ("state", 2, "int32")],
    "StatusResponse": [("model_version_status", 1, "[VersionStatus]")],
    "PredictLog": [("request", 1, "PredictRequest"), ("response", 2, "PredictResponse")],
    "PredictionLog": [("predict_log", 6, "PredictLog")],
}
_STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
# HTTP's codes by the names that gRPC has for them.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    412: "FAILED_PRECONDITION",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
}


class ServingError(RuntimeError):
    """The request cannot be sent, the server refused it, or did not answer in time."""


class Client:
    """One model on one server; a context that closes the connection.

    Args:
        address: "http://HOST:8501" or https for REST, "grpc://HOST:8500" or grpcs for gRPC.
        model: the name under which the server has it.
        version: which version; defaults to the server's newest.
        timeout: seconds that a call may take, its retries included.
        retries: how often to try again where the server is not there or busy.
        label: in place of `version` the label that the server's configuration gives one.
        headers: a dict sent with each request, such as {"authorization": "Bearer ..."}.
        ca_file: of PEM certificates to trust, for https and grpcs; defaults to the system's.
        certificate: the paths of the client's own PEM certificate and private key.

    Raises:
        ValueError: an argument that cannot be; names it.
    """

    def __init__(
        self,
        address,
        model,
        version=None,
        timeout=10.0,
        retries=3,
        *,
        label=None,
        headers=None,
        ca_file=None,
        certificate=None,
    ):
        scheme = _check_address(address)
        if not isinstance(model, str) or not model:
            raise ValueError(f"`model` must be a name, got {model!r}")
        if version is not None and label is not None:
            raise ValueError("`version` must be None where a `label` is given")
        if version is not None and (not isinstance(version, int) or version < 0):
            raise ValueError(f"`version` must be an integer from 0, got {version!r}")
        if not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise ValueError(f"`timeout` must be a number of seconds above 0, got {timeout!r}")
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(f"`retries` must be an integer from 0, got {retries!r}")
        self.model, self.version, self.timeout, self.retries = model, version, timeout, retries
        transport = _Grpc if scheme.startswith("grpc") else _Rest
        self._transport = transport(
            address, (model, version, label), dict(headers or {}), ca_file, certificate
        )
        self._specs = None
        self._closed = False

    def __call__(self, signature="serving_default", **inputs):
        """The outputs by name, as nested lists, for inputs by name, as nested lists.

        Text may be str or bytes. Raises ServingError, with the server's words where it refused.
        """
        deadline = time.monotonic() + self.timeout
        specs = self._known(deadline)
        if signature not in specs:
            raise ServingError(f"`signature` must be one of {', '.join(specs)}, got {signature!r}")
        wanted, outputs = specs[signature]
        if set(inputs) != set(wanted):
            raise ServingError(f"{signature} takes {sorted(wanted)}, got {sorted(inputs)}")
        checked = {
            name: (wanted[name][0], *_checked(name, value, *wanted[name]))
            for name, value in inputs.items()
        }
        return self._retry(deadline, self._transport.predict, signature, checked, outputs)

    async def call_async(self, signature="serving_default", **inputs):
        """The same from a coroutine, which waits in a thread."""
        return await asyncio.to_thread(self, signature, **inputs)

    def signatures(self):
        """Name to `(inputs, outputs)`, each a dict from a name to its type, such as "int64"."""
        specs = self._known(time.monotonic() + self.timeout)
        return {
            name: tuple({key: dtype for key, (dtype, _) in part.items()} for part in parts)
            for name, parts in specs.items()
        }

    def status(self):
        """Each version's number to its state: START, LOADING, AVAILABLE, UNLOADING or END."""
        return self._retry(time.monotonic() + self.timeout, self._transport.status)

    def ready(self):
        """Whether the server is there and can answer for the version, or for any."""
        try:
            states = self.status()
        except ServingError:
            return False
        asked = states if self.version is None else [self.version]
        return any(states.get(version) == "AVAILABLE" for version in asked)

    def close(self):
        """Closes the connection."""
        self._closed = True
        self._transport.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _known(self, deadline):
        if self._specs is None:
            self._specs = self._retry(deadline, self._transport.signatures)
        return self._specs

    def _retry(self, deadline, call, *arguments):
        pause = 0.1
        for attempt in range(self.retries + 1):
            if self._closed:
                raise ServingError("the client is closed")
            try:
                return call(*arguments, deadline=deadline)
            except TimeoutError as error:
                raise ServingError(f"no answer within {self.timeout:.3g} s") from error
            except _UnavailableError as error:
                if attempt == self.retries or time.monotonic() + pause >= deadline:
                    raise ServingError(f"no answer from the server: {error}") from error
                time.sleep(pause)
                pause *= 2
        return None


class _UnavailableError(Exception):
    """Worth another try."""


class _Rest:
    def __init__(self, address, spec, headers, ca_file, certificate):
        parts = urllib.parse.urlsplit(address)
        model, version, label = spec
        self.path = f"{parts.path.rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}"
        if version is not None:
            self.path += f"/versions/{version}"
        if label is not None:
            self.path += f"/labels/{urllib.parse.quote(label, safe='')}"
        self.headers = {"Content-Type": "application/json", **headers}
        self.secure = None
        if parts.scheme == "https":
            self.secure = ssl.create_default_context(cafile=ca_file)
            if certificate is not None:
                self.secure.load_cert_chain(*certificate)
        self.host, self.port = parts.hostname, parts.port or (443 if self.secure else 80)

    def predict(self, signature, inputs, outputs, deadline):
        columns = {
            name: _nest([_to_json(value) for value in flat], shape)
            for name, (_, shape, flat) in inputs.items()
        }
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        answer = self._send("POST", ":predict", body, deadline, "outputs")
        if len(outputs) == 1:  # then the server leaves out its name
            answer = {next(iter(outputs)): answer}
        if not isinstance(answer, dict):
            raise ServingError(f"the answer must have outputs by name, got {answer!r:.200}")
        return {name: _from_json(value) for name, value in answer.items()}

    def signatures(self, deadline):
        metadata = self._send("GET", "/metadata", None, deadline, "metadata")
        with _readable():
            return {
                name: tuple(
                    {key: _json_spec(info) for key, info in signature.get(part, {}).items()}
                    for part in ("inputs", "outputs")
                )
                for name, signature in metadata["signature_def"]["signature_def"].items()
                if not name.startswith("__")
            }

    def status(self, deadline):
        found = self._send("GET", "", None, deadline, "model_version_status")
        with _readable():
            return {int(status["version"]): status["state"] for status in found}

    def _send(self, method, path, body, deadline, key):
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.response_class = functools.partial(_Response, deadline=deadline)
        try:
            connection.sock = self._connect(deadline)
            connection.request(method, self.path + path, body, self.headers)
            response = connection.getresponse()
            text, code = response.read(), response.status
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            raise ServingError(f"no secure connection to the server: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _UnavailableError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if code in (429, 503):
            raise _UnavailableError(_refusal(text))
        if code != 200:
            code = _CODES.get(code, f"HTTP {code}")
            raise ServingError(f"the server refused the request, {code}: {_refusal(text)}")
        try:
            answer = json.loads(text.decode())
        except UnicodeDecodeError as error:
            raise ServingError(f"the answer is not UTF-8: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ServingError(f"the answer is not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ServingError(f"the answer must be a JSON object, got {answer!r:.200}")
        if key not in answer:
            raise ServingError(f"the answer must have {key!r}, got {sorted(answer)}")
        return answer[key]

    def _connect(self, deadline):
        problem = OSError(f"{self.host} has no address")
        for *kind, _, target in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            connected = socket.socket(*kind)
            try:
                connected.settimeout(_left(deadline))
                connected.connect(target)
                if self.secure:
                    return self.secure.wrap_socket(connected, server_hostname=self.host)
                return connected
            except OSError as error:
                connected.close()
                problem = error
        raise problem

    def close(self):
        """There is nothing to close: each request has its own connection."""


class _Response(http.client.HTTPResponse):
    """An answer whose every byte arrives before the deadline."""

    def __init__(self, sock, *arguments, deadline, **options):
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, deadline))


class _Timed(io.RawIOBase):
    def __init__(self, raw, sock, deadline):
        self.raw, self.sock, self.deadline = raw, sock, deadline

    def readable(self):
        return True

    def readinto(self, buffer):
        self.sock.settimeout(_left(self.deadline))
        return self.raw.readinto(buffer)

    def close(self):
        self.raw.close()
        super().close()


class _Grpc:
    def __init__(self, address, spec, headers, ca_file, certificate):
        grpc = _grpc()
        scheme, _, host = address.partition("://")
        # An answer may be as large as it is.
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if scheme == "grpcs":
            chain, key = map(_bytes, certificate or (None, None))
            credentials = grpc.ssl_channel_credentials(_bytes(ca_file), key, chain)
            self.channel = grpc.secure_channel(host, credentials, options)
        else:
            self.channel = grpc.insecure_channel(host, options)
        model, version, label = spec
        self.spec = {"name": model}
        if version is not None:
            self.spec["version"] = {"value": version}
        if label is not None:
            self.spec["version_label"] = label
        self.headers = [(name.lower(), value) for name, value in headers.items()]

    def predict(self, signature, inputs, outputs, deadline):
        request = message("PredictRequest")(model_spec={**self.spec, "signature_name": signature})
        for name, (dtype, shape, flat) in inputs.items():
            request.inputs[name].CopyFrom(_tensor(dtype, shape, flat))
        response = self._send("Prediction", "Predict", request, "PredictResponse", deadline)
        return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}

    def signatures(self, deadline):
        request = message("MetadataRequest")(model_spec=self.spec, metadata_field=["signature_def"])
        response = self._send(
            "Prediction", "GetModelMetadata", request, "MetadataResponse", deadline
        )
        with _readable():
            found = message("SignatureDefMap").FromString(response.metadata["signature_def"].value)
        return {
            name: tuple(
                {key: _spec(info) for key, info in part.items()}
                for part in (signature.inputs, signature.outputs)
            )
            for name, signature in found.signature_def.items()
            if not name.startswith("__")
        }

    def status(self, deadline):
        request = message("StatusRequest")(model_spec=self.spec)
        response = self._send("Model", "GetModelStatus", request, "StatusResponse", deadline)
        return {
            status.version: _STATES.get(status.state, "UNKNOWN")
            for status in response.model_version_status
        }

    def _send(self, service, method, request, response, deadline):
        grpc = _grpc()
        call = self.channel.unary_unary(
            f"/tensorflow.serving.{service}Service/{method}",
            request_serializer=lambda value: value.SerializeToString(),
            response_deserializer=message(response).FromString,
        )
        try:
            return call(request, timeout=_left(deadline), metadata=self.headers)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise _UnavailableError(error.details()) from error
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            raise ServingError(
                f"the server refused the request, {code.name}: {error.details()}"
            ) from error

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
    return _tensor(dtype, *_checked("value", value, dtype, None))


def from_tensor(tensor):
    """A Tensor message as nested lists; strings decoded where they are UTF-8."""
    if tensor.dtype not in _NUMBERS:
        raise ServingError(f"the answer has the unknown type {tensor.dtype}")
    dtype = _NUMBERS[tensor.dtype]
    _, letter, field = _TYPES[dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    count = math.prod(shape)
    flat = list(getattr(tensor, field))
    if tensor.tensor_content:
        flat = list(struct.unpack(f"<{count}{letter}", tensor.tensor_content))
    elif dtype == "float16":  # the field holds the bits
        flat = [struct.unpack("<e", struct.pack("<H", bits))[0] for bits in flat]
    if dtype == "bfloat16":
        flat = [struct.unpack("<f", struct.pack("<I", bits << 16))[0] for bits in flat]
    if letter is None:
        flat = [_text(value) for value in flat]
    # Equal values at the end may be left out, and zeros altogether.
    default = flat[-1] if flat else "" if letter is None else 0
    flat += [default] * (count - len(flat))
    return _nest(flat, shape)


def _tensor(dtype, shape, flat):
    number, letter, _ = _TYPES[dtype]
    tensor = message("Tensor")(dtype=number, tensor_shape={"dim": [{"size": n} for n in shape]})
    if letter is None:
        tensor.string_val.extend(_content(dtype, flat))
    else:
        tensor.tensor_content = _content(dtype, flat)
    return tensor


def _content(dtype, flat):
    """The bytes of each string, or of all numbers together."""
    letter = _TYPES[dtype][1]
    if letter is None:
        return [value.encode() if isinstance(value, str) else value for value in flat]
    if dtype == "bfloat16":
        bits = struct.unpack(f"<{len(flat)}I", struct.pack(f"<{len(flat)}f", *flat))
        # Rounded to even, as the lower half is cut off; NaN stays NaN.
        flat = [
            b >> 16 if value != value else (b + 0x7FFF + (b >> 16 & 1)) >> 16
            for b, value in zip(bits, flat, strict=True)
        ]
    return struct.pack(f"<{len(flat)}{letter}", *flat)


def _checked(name, value, dtype, wanted):
    """The shape and the flat values of a nested list, of the type and shape that are wanted."""
    if dtype not in _TYPES:
        raise ServingError(f"`{name}` is of type {dtype}, which cannot be sent")
    shape, flat = _flatten(name, value)
    kinds = {"string": {str, bytes}, "bool": {bool}}.get(dtype, {int})
    if "float" in dtype:
        kinds = {int, float}
    if not kinds.issuperset(map(type, flat)):
        wrong = next(item for item in flat if type(item) not in kinds)
        raise ServingError(f"`{name}` must be of type {dtype}, got {wrong!r:.50}")
    if "float" in dtype:
        flat = list(map(float, flat))
    try:
        _content(dtype, flat)
    except (OverflowError, struct.error, UnicodeEncodeError) as error:
        raise ServingError(f"`{name}` has a value that is no {dtype}: {error}") from error
    if wanted is not None:
        same = len(shape) == len(wanted) and all(
            size in (-1, own) for own, size in zip(shape, wanted, strict=True)
        )
        if not flat or not same:
            sizes = ", ".join("?" if size < 0 else str(size) for size in wanted)
            least = "" if flat else " and at least one row"
            raise ServingError(f"`{name}` must have the shape [{sizes}]{least}, got {shape}")
    return shape, flat


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


def _flatten(name, value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [], [value]
    parts = [_flatten(name, item) for item in value]
    shapes = [shape for shape, _ in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise ServingError(f"`{name}` must have rows of one length, got {shapes[:4]}")
    inner = shapes[0] if shapes else []
    return [len(value), *inner], [item for _, flat in parts for item in flat]


def _to_json(value):
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value):
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict) and set(value) == {"b64"}:
        with _readable():
            return _text(base64.b64decode(value["b64"]))
    return value


def _json_spec(info):
    name, shape = info["dtype"], info.get("tensor_shape", {"unknown_rank": True})
    sizes = None if shape.get("unknown_rank") else [int(dim["size"]) for dim in shape["dim"]]
    return _JSON_TYPES.get(name, name.removeprefix("DT_").lower()), sizes


def _spec(info):
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else [dim.size for dim in shape.dim]
    return _NUMBERS.get(info.dtype, str(info.dtype)), sizes


def _text(value):
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _refusal(text):
    """What the server says: the error of a JSON object, or the text itself."""
    text = text.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        return json.loads(text)["error"]
    return text


@contextlib.contextmanager
def _readable():
    """Turns the errors of reading what has not the form that it should have into one of ours."""
    try:
        yield
    except Exception as error:
        raise ServingError(f"the answer cannot be read: {error!r}") from error


def _left(deadline):
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _bytes(path):
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _grpc():
    try:
        importlib.import_module("google.protobuf")
        return importlib.import_module("grpc")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"gRPC needs the package {error.name}: pip install keras_attn[serve], or "
            "grpcio and protobuf"
        ) from error


def _check_address(address):
    scheme = None
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        parts = urllib.parse.urlsplit(address)
        if parts.port != 0 and parts.hostname:  # reading a port that is no number raises
            scheme = parts.scheme
    if scheme not in ("http", "https", "grpc", "grpcs"):
        raise ValueError(
            f"`address` must be http://HOST:PORT, or so with https, grpc or grpcs, got {address!r}"
        )
    return scheme


def main():
    """Ask a server from the command line."""
    parser = argparse.ArgumentParser(description="Asks `serving_default` of a model with texts.")
    parser.add_argument("address", help="http://HOST:8501 or grpc://HOST:8500")
    parser.add_argument("model", help="the name under which the server has it")
    parser.add_argument("text", nargs="+")
    arguments = parser.parse_args()
    with Client(arguments.address, arguments.model) as client:
        print(json.dumps(client(text=arguments.text), ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
