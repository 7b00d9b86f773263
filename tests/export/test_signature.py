import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attn import export
from keras_attn.export import signature

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["a b", "c.d-e", "3d", ""], ["a_b", "c_d_e", "arg_3d", "arg__"]),
        (["lstm", "lstm", "x"], ["lstm_0", "lstm_1", "x"]),
        (["a", "a", "a_0"], ["a_1", "a_2", "a_0"]),
        (["a b", "a-b"], ["a_b_0", "a_b_1"]),
        ([0, "class"], ["arg_0", "class"]),
    ],
)
def test_names_are_valid_and_unique(names, plain):
    assert signature.plain_names(names) == plain


def test_nested_outputs_are_named_by_their_paths():
    nested = {"a": {"b": 1, "c": [2, 3]}, "a_b": 4}
    assert signature.flattened(nested) == {"a_b_0": 1, "a_c_0": 2, "a_c_1": 3, "a_b_1": 4}


def test_an_invalid_input_name_raises():
    with pytest.raises(ValueError, match=r"names such as \['my_input', 'arg_class'\], got"):
        export.Signature(
            lambda **_: {}, dict.fromkeys(["my input", "class"], tf.TensorSpec([None])), []
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint16", "uint8", "int8", "uint32"])
def test_dtypes_missing_in_json_are_sent_in_wider_dtypes(dtype):
    got = export.Signature(lambda x: {"y": x + x}, {"x": tf.TensorSpec([None], dtype)}, [])
    wire = got.wire()["x"].dtype
    wider = {"float16": "float32", "bfloat16": "float32", "uint16": "int32"}
    assert wire == wider.get(dtype, dtype)
    batch = got.batch({"x": np.array([1, 3])}, "batch")
    assert got(batch)["y"].numpy().tolist() == [2, 6]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: [x], "must return a dict, got list"),
        (lambda x: {"y": tf.cast(x, tf.complex64)}, "'y' must have real numbers, got complex64"),
        (
            lambda x: {"y": tf.RaggedTensor.from_row_lengths(x, [1, 1])},
            "'y' must be a dense tensor",
        ),
        (lambda x: {"y": tf.sparse.from_dense(x)}, "'y' must be a dense tensor, got a SparseTe"),
    ],
)
def test_outputs_that_no_server_supports_raise(output, message):
    made = export.Signature(output, {"x": tf.TensorSpec([None], tf.float32)}, [])
    with pytest.raises(ValueError, match=message):
        made({"x": np.ones(2, "float32")})


@pytest.mark.parametrize("option", ["sparse", "ragged"])
def test_sparse_and_ragged_inputs_raise(option, tmp_path):
    inputs = keras.Input((5,), name="numbers", **{option: True})
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="`model` must have dense inputs, got 'numbers'"):
        export.publish(model, tmp_path / "m")
