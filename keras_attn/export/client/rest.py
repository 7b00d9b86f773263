"""TF Serving over REST, with the standard library."""

import base64
import contextlib
import functools
import http.client
import io
import json
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

from .values import (
    Inputs,
    ServingError,
    Shape,
    Specs,
    UnavailableError,
    decoded,
    nest,
    readable,
    seconds_left,
)

_JSON_TYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}

# The names in gRPC of HTTP's status codes.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    412: "FAILED_PRECONDITION",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
}


class Rest:
    """One model of a server, over REST."""

    def __init__(
        self,
        address: str,
        spec: tuple[str, int | None, str | None],
        headers: Mapping[str, str],
        ca_file: str | None,
        certificate: tuple[str, str] | None,
    ) -> None:
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
        self.host, self.port = parts.hostname or "", parts.port or (443 if self.secure else 80)

    def predict(
        self, signature: str, inputs: Inputs, outputs: Specs, deadline: float
    ) -> dict[str, Any]:
        """The outputs by name, for checked inputs."""
        columns = {
            name: nest([_to_json(value) for value in flat], shape)
            for name, (_, shape, flat) in inputs.items()
        }
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        answer = self._send("POST", ":predict", body, deadline, "outputs")
        if len(outputs) == 1:  # the server leaves out the name of a single output
            answer = {next(iter(outputs)): answer}
        if not isinstance(answer, dict):
            raise ServingError(f"the answer must have outputs by name, got {answer!r:.200}")
        return {name: _from_json(value) for name, value in answer.items()}

    def signatures(self, deadline: float) -> dict[str, tuple[Specs, ...]]:
        """A dict from a signature's name to `(inputs, outputs)`, from a name to `(type, shape)`."""
        metadata = self._send("GET", "/metadata", None, deadline, "metadata")
        with readable():
            return {
                name: tuple(
                    {key: _json_spec(info) for key, info in signature.get(part, {}).items()}
                    for part in ("inputs", "outputs")
                )
                for name, signature in metadata["signature_def"]["signature_def"].items()
                if not name.startswith("__")
            }

    def status(self, deadline: float) -> dict[int, str]:
        """The state of each version."""
        found = self._send("GET", "", None, deadline, "model_version_status")
        with readable():
            return {int(status["version"]): status["state"] for status in found}

    def _send(self, method: str, path: str, body: bytes | None, deadline: float, key: str) -> Any:
        connection: Any = http.client.HTTPConnection(self.host, self.port)
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
            raise UnavailableError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if code in (429, 503):
            raise UnavailableError(_refusal(text))
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

    def _connect(self, deadline: float) -> socket.socket:
        problem = OSError(f"{self.host} has no address")
        for *kind, _, target in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            connected = socket.socket(*kind)
            try:
                connected.settimeout(seconds_left(deadline))
                connected.connect(target)
                if self.secure:
                    return self.secure.wrap_socket(connected, server_hostname=self.host)
                return connected
            except OSError as error:
                connected.close()
                problem = error
        raise problem

    def close(self) -> None:
        """Do nothing: each request has its own connection."""


class _Response(http.client.HTTPResponse):
    """An answer that raises a TimeoutError if it is not complete before the deadline."""

    def __init__(
        self, sock: socket.socket, *arguments: Any, deadline: float, **options: Any
    ) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, deadline))


class _Timed(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self.raw, self.sock, self.deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.sock.settimeout(seconds_left(self.deadline))
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


def _to_json(value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict) and set(value) == {"b64"}:
        with readable():
            return decoded(base64.b64decode(value["b64"]))
    return value


def _json_spec(info: dict[str, Any]) -> tuple[str, Shape]:
    name, shape = info["dtype"], info.get("tensor_shape", {"unknown_rank": True})
    sizes = None if shape.get("unknown_rank") else [int(dim["size"]) for dim in shape["dim"]]
    return _JSON_TYPES.get(name, name.removeprefix("DT_").lower()), sizes


def _refusal(answer: bytes) -> str:
    """The server's message: the error of a JSON object, or the text itself."""
    text = answer.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        return json.loads(text)["error"]
    return text
