"""The protobuf messages of TF Serving, defined here because its own classes import tensorflow.

They are in a private descriptor pool, and their bytes are the same as those of TF Serving.
"""

import functools
import math
import struct
from collections.abc import Mapping
from typing import Any

from .values import NUMBERS, TYPES, ServingError, checked_value, content, decoded, nest

# Message: (field, number, type). "[M]" is a repeated field, "{M}" a map from strings to M.
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


def predict_request(
    spec: Mapping[str, Any], inputs: Mapping[str, Any], dtypes: Mapping[str, str]
) -> Any:
    """A PredictRequest message."""
    request = message("PredictRequest")(model_spec=spec)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(value, dtypes[name]))
    return request


def to_tensor(value: Any, dtype: str) -> Any:
    """A nested list as a Tensor message."""
    return message_of(dtype, *checked_value("value", value, dtype, None))


def from_tensor(tensor: Any) -> Any:
    """A Tensor message as nested lists; strings are decoded if they are UTF-8."""
    if tensor.dtype not in NUMBERS:
        raise ServingError(f"the answer has the unknown type {tensor.dtype}")
    dtype = NUMBERS[tensor.dtype]
    _, letter, field = TYPES[dtype]
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
        flat = [decoded(value) for value in flat]
    # A message may leave out equal values at the end, and zeros completely.
    default = flat[-1] if flat else "" if letter is None else 0
    flat += [default] * (count - len(flat))
    return nest(flat, shape)


def message_of(dtype: str, shape: list[int], flat: list) -> Any:
    """A Tensor message from checked values."""
    number, letter, _ = TYPES[dtype]
    tensor = message("Tensor")(dtype=number, tensor_shape={"dim": [{"size": n} for n in shape]})
    if letter is None:
        tensor.string_val.extend(content(dtype, flat))
    else:
        tensor.tensor_content = content(dtype, flat)
    return tensor


@functools.cache
def message(name: str) -> Any:
    """The class of a message in `_MESSAGES`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"wire.{name}"))


@functools.cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="wire", package="wire", syntax="proto3")

    def add_field(target: Any, name: str, number: int, spelled: str) -> None:
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
