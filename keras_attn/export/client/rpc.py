"""TF Serving over gRPC, with the packages grpcio and protobuf."""

import importlib
from collections.abc import Mapping
from typing import Any

from .messages import from_tensor, message, message_of
from .values import (
    NUMBERS,
    Inputs,
    ServingError,
    Shape,
    Specs,
    UnavailableError,
    readable,
    seconds_left,
)

_STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


class Grpc:
    """One model of a server, over gRPC."""

    def __init__(
        self,
        address: str,
        spec: tuple[str, int | None, str | None],
        headers: Mapping[str, str],
        ca_file: str | None,
        certificate: tuple[str, str] | None,
    ) -> None:
        grpc = _grpc()
        scheme, _, host = address.partition("://")
        # No limit on the size of a message.
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if scheme == "grpcs":
            chain, key = map(_bytes, certificate or (None, None))
            credentials = grpc.ssl_channel_credentials(_bytes(ca_file), key, chain)
            self.channel = grpc.secure_channel(host, credentials, options)
        else:
            self.channel = grpc.insecure_channel(host, options)
        model, version, label = spec
        self.spec: dict[str, Any] = {"name": model}
        if version is not None:
            self.spec["version"] = {"value": version}
        if label is not None:
            self.spec["version_label"] = label
        self.headers = [(name.lower(), value) for name, value in headers.items()]

    def predict(
        self, signature: str, inputs: Inputs, outputs: Specs, deadline: float
    ) -> dict[str, Any]:
        """The outputs by name, for checked inputs."""
        request = message("PredictRequest")(model_spec={**self.spec, "signature_name": signature})
        for name, (dtype, shape, flat) in inputs.items():
            request.inputs[name].CopyFrom(message_of(dtype, shape, flat))
        response = self._send("Prediction", "Predict", request, "PredictResponse", deadline)
        return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}

    def signatures(self, deadline: float) -> dict[str, tuple[Specs, ...]]:
        """A dict from a signature's name to `(inputs, outputs)`, from a name to `(type, shape)`."""
        request = message("MetadataRequest")(model_spec=self.spec, metadata_field=["signature_def"])
        response = self._send(
            "Prediction", "GetModelMetadata", request, "MetadataResponse", deadline
        )
        with readable():
            found = message("SignatureDefMap").FromString(response.metadata["signature_def"].value)
        return {
            name: tuple(
                {key: _spec(info) for key, info in part.items()}
                for part in (signature.inputs, signature.outputs)
            )
            for name, signature in found.signature_def.items()
            if not name.startswith("__")
        }

    def status(self, deadline: float) -> dict[int, str]:
        """The state of each version."""
        request = message("StatusRequest")(model_spec=self.spec)
        response = self._send("Model", "GetModelStatus", request, "StatusResponse", deadline)
        return {
            status.version: _STATES.get(status.state, "UNKNOWN")
            for status in response.model_version_status
        }

    def _send(self, service: str, method: str, request: Any, response: str, deadline: float) -> Any:
        grpc = _grpc()
        call = self.channel.unary_unary(
            f"/tensorflow.serving.{service}Service/{method}",
            request_serializer=lambda value: value.SerializeToString(),
            response_deserializer=message(response).FromString,
        )
        try:
            return call(request, timeout=seconds_left(deadline), metadata=self.headers)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise UnavailableError(error.details()) from error
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            raise ServingError(
                f"the server refused the request, {code.name}: {error.details()}"
            ) from error

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def _spec(info: Any) -> tuple[str, Shape]:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else [dim.size for dim in shape.dim]
    return NUMBERS.get(info.dtype, str(info.dtype)), sizes


def _bytes(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _grpc() -> Any:
    try:
        importlib.import_module("google.protobuf")
        return importlib.import_module("grpc")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"gRPC needs the package {error.name}: pip install keras_attn[serve], or "
            "grpcio and protobuf"
        ) from error
