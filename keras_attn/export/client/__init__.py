"""A client for TF Serving, over REST or gRPC, with plain Python values.

This folder needs nothing else of keras_attn: copy it to a machine that has neither keras nor
tensorflow. REST needs only the standard library, gRPC the packages grpcio and protobuf.

    python -m client http://localhost:8501 NAME "The capital of France is [MASK]."
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from .messages import from_tensor, message, predict_request, to_tensor
from .rest import Rest
from .rpc import Grpc
from .values import (
    ServingError,
    Specs,
    UnavailableError,
    check_address,
    checked_headers,
    checked_value,
)

__all__ = ["Client", "ServingError", "from_tensor", "message", "predict_request", "to_tensor"]


class Client:
    """One model on one server; a context manager that closes the connection.

    Args:
        address: "http://HOST:8501" or https for REST, "grpc://HOST:8500" or grpcs for gRPC.
        model: the name of the model on the server.
        version: the number of the version; defaults to the newest one on the server.
        timeout: the maximum number of seconds of a call, retries included.
        retries: how often to try again if the server is busy or cannot be reached.
        label: the label of a version in the server's configuration, instead of `version`.
        headers: a dict sent with each request, such as {"authorization": "Bearer ..."}.
        ca_file: a PEM file of trusted certificates, for https and grpcs; defaults to the system's.
        certificate: the paths of the client's own PEM certificate and private key.

    Raises:
        ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        address: str,
        model: str,
        version: int | None = None,
        timeout: float = 10.0,
        retries: int = 3,
        *,
        label: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        scheme = check_address(address)
        if not isinstance(model, str) or not model:
            raise ValueError(f"`model` must be a name, got {model!r}")
        if version is not None and label is not None:
            raise ValueError("`version` must be None if `label` is given")
        if version is not None and (type(version) is not int or version < 0):
            raise ValueError(f"`version` must be an integer from 0, got {version!r}")
        if type(timeout) not in (int, float) or not 0 < timeout < math.inf:
            raise ValueError(f"`timeout` must be a number of seconds above 0, got {timeout!r}")
        if type(retries) is not int or retries < 0:
            raise ValueError(f"`retries` must be an integer from 0, got {retries!r}")
        if label is not None and (not isinstance(label, str) or not label):
            raise ValueError(f"`label` must be a name, got {label!r}")
        headers = checked_headers(headers)
        if certificate is not None and (
            not isinstance(certificate, (list, tuple)) or len(certificate) != 2
        ):
            raise ValueError(
                "`certificate` must be the paths of a certificate and a private key, got "
                f"{certificate!r}"
            )
        self.model, self.version, self.timeout, self.retries = model, version, timeout, retries
        transport = Grpc if scheme.startswith("grpc") else Rest
        try:
            self._transport = transport(
                address, (model, version, label), headers, ca_file, certificate
            )
        except (OSError, TypeError) as error:  # files that do not exist, or have no certificate
            raise ValueError(
                "`ca_file` and `certificate` must be PEM files, got "
                f"{ca_file!r} and {certificate!r}: {error}"
            ) from error
        self._specs: dict[str, tuple[Specs, ...]] = {}  # no server has a model without a signature
        self._closed = False

    def __call__(self, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
        """The outputs by name, as nested lists.

        Inputs are nested lists by name; text may be str or bytes. If the server refuses the
        request, its message is in the ServingError that this raises.
        """
        deadline = time.monotonic() + self.timeout
        specs = self._known(deadline)
        if signature not in specs:
            raise ServingError(f"`signature` must be one of {', '.join(specs)}, got {signature!r}")
        wanted, outputs = specs[signature]
        if set(inputs) != set(wanted):
            raise ServingError(f"`{signature}` takes {sorted(wanted)}, got {sorted(inputs)}")
        checked = {
            name: (wanted[name][0], *checked_value(name, value, *wanted[name]))
            for name, value in inputs.items()
        }
        return self._retry(deadline, self._transport.predict, signature, checked, outputs)

    async def call_async(self, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
        """The same as a coroutine: the call runs in a thread."""
        return await asyncio.to_thread(self, signature, **inputs)

    def signatures(self) -> dict[str, tuple[dict[str, str], ...]]:
        """A dict from a signature's name to `(inputs, outputs)`, dicts from a name to its type."""
        specs = self._known(time.monotonic() + self.timeout)
        return {
            name: tuple({key: dtype for key, (dtype, _) in part.items()} for part in parts)
            for name, parts in specs.items()
        }

    def status(self) -> dict[int, str]:
        """The state of each version: START, LOADING, AVAILABLE, UNLOADING or END."""
        return self._retry(time.monotonic() + self.timeout, self._transport.status)

    def ready(self) -> bool:
        """Whether the server can be reached and has the version loaded, or any if none is given."""
        try:
            states = self.status()
        except ServingError:
            return False
        asked = states if self.version is None else [self.version]
        return any(states.get(version) == "AVAILABLE" for version in asked)

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _known(self, deadline: float) -> dict[str, tuple[Specs, ...]]:
        if not self._specs:
            self._specs = self._retry(deadline, self._transport.signatures)
        return self._specs

    def _retry(self, deadline: float, call: Callable[..., Any], *arguments: Any) -> Any:
        pause = 0.1
        for attempt in range(self.retries + 1):
            if self._closed:
                raise ServingError("the client is closed")
            try:
                return call(*arguments, deadline=deadline)
            except TimeoutError as error:
                raise ServingError(f"no answer within {self.timeout:.3g} s") from error
            except UnavailableError as error:
                if attempt == self.retries or time.monotonic() + pause >= deadline:
                    raise ServingError(f"no answer from the server: {error}") from error
                time.sleep(pause)
                pause *= 2
        return None
