"""Random models of Keras' layers and ours give the same outputs in a new process as in Keras."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_attn import export
from keras_attn import layers as ours
from keras_attn.export import isolation

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

SERVED = {
    **{name: name for name in ("x", "x_1", "inputs")},
    "my input": "my_input",
    "a.b-c": "a_b_c",
    "3d": "arg_3d",
    "class": "arg_class",
    "self": "arg_self",
    "_mask": "arg__mask",
    "über": "arg__ber",
}
FLOATS = ["float32", "float64", "float16", "bfloat16"]
INTEGERS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"]
WORDS = ["the", "cat", "sat", "on", "mat"]


@pytest.fixture(scope="module")
def process():
    with isolation.FreshProcess() as started:
        yield started


@pytest.fixture
def one_process(process, monkeypatch):
    """Let `publish` check all models in the same child process."""

    class Shared:
        def __enter__(self):
            return process

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(isolation, "FreshProcess", Shared)


class RandomModel:
    """A random model, determined by its seed, and a batch for it."""

    def __init__(self, seed):
        self.rng, self.numbers = random.Random(seed), np.random.default_rng(seed)
        keras.utils.set_random_seed(seed)
        self.rows = self.rng.choice([None, None, None, 2])  # None means any number
        if self.rng.random() < 0.1:
            self.model, self.batch = self.sequential()
            return
        names = self.rng.sample(list(SERVED), self.rng.randint(1, 3))
        kinds = [self.rng.choice([self.numeric, self.numeric, self.text]) for _ in names]
        made = [kind(name) for kind, name in zip(kinds, names, strict=True)]
        inputs = [tensor for tensor, _, _ in made]
        self.batch = [values for _, values, _ in made]
        tensors = [tensor for _, _, found in made for tensor in found]
        structure = inputs
        if self.rng.random() < 0.4:
            structure = dict(zip(names, inputs, strict=True))
            self.batch = [v for _, v in sorted(zip(names, self.batch, strict=True))]
        elif len(inputs) == 1:
            (structure,) = inputs
        self.model = keras.Model(structure, self.outputs(tensors))

    def size(self):
        return self.rng.choice([2, 3, 5, 7])

    def draw(self, dtype, shape):
        shape = [self.rows or 3, *(size or 5 for size in shape)]
        if dtype == "bool":
            return self.numbers.random(shape) < 0.5
        if dtype in FLOATS:
            # Values that half precision represents exactly, since the batch is sent in float32.
            return self.numbers.integers(-8, 8, shape).astype("float32") / 4
        return self.numbers.integers(0, 100, shape).astype(dtype)

    def input(self, shape, dtype, name):
        return keras.Input(shape, self.rows, dtype=dtype, name=name)

    def sequential(self):
        size = self.size()
        model = keras.Sequential([layers.Dense(3), layers.BatchNormalization(), layers.Softmax()])
        model.build((self.rows, size))
        return model, [self.draw("float32", [size])]

    def numeric(self, name):
        dtype = self.rng.choice([*FLOATS, *INTEGERS, "bool"])
        shape = self.rng.choice([(self.size(),), (None, 6), (4, 6), (5, 7, 3), (None, None, 2)])
        tensor = self.input(shape, dtype, name)
        hidden = ops.cast(tensor, "float32")
        if dtype in INTEGERS:
            hidden = layers.Rescaling(1 / 50)(hidden)
        if len(shape) == 3:
            hidden = layers.Conv2D(4, 2, padding="same", activation="relu")(hidden)
            found = [layers.GlobalMaxPooling2D()(hidden)]
        elif len(shape) == 2:
            found = self.rng.choice([self.recurrent, self.attended, self.block])(hidden)
        else:
            found = [layers.Dense(4)(layers.LayerNormalization()(hidden))]
        return tensor, self.draw(dtype, shape), found

    def recurrent(self, hidden):
        return list(layers.LSTM(4, return_state=True)(hidden))

    def attended(self, hidden):
        hidden = layers.Dense(6)(hidden)
        attention = self.rng.choice(
            [
                lambda x: ours.MultiHeadSelfAttention(2)(x, return_attention_scores=True),
                lambda x: layers.MultiHeadAttention(2, 3)(x, x, return_attention_scores=True),
            ]
        )
        context, weights = attention(hidden)
        return [layers.GlobalAveragePooling1D()(context), weights]

    def block(self, hidden):
        hidden = layers.Dense(6)(hidden)
        block = ours.TransformerEncoderBlock(1, 5, position=ours.RotaryEmbedding(), window=2)
        return [ours.SequencePooling("mean")(block(hidden))]

    def text(self, name):
        if self.rng.random() < 0.5:
            tensor = self.input((3,), "string", name)
            ids = layers.StringLookup(vocabulary=WORDS)(tensor)
            values = self.numbers.choice([*WORDS, "dog", ""], (self.rows or 3, 3)).astype(object)
        else:
            tensor = self.input((), "string", name)
            ids = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=4)(tensor)
            texts = ["The cat sat.", "", "a mat, a MAT"][: self.rows or 3]
            values = np.array(texts, object)
        embedded = layers.Embedding(len(WORDS) + 2, 3)(ids)
        return tensor, values, [layers.Flatten()(embedded), ids]

    def outputs(self, tensors):
        kind = self.rng.choice(["list", "dict", "nested", "twice", "first", "odd numbers"])
        if kind == "first":
            return tensors[0]
        if kind == "twice":
            return (tensors[0], tensors[-1], tensors[0])
        if kind == "dict":
            names = self.rng.sample(["out", "b c", "1st", "a-b"], min(len(tensors), 4))
            return dict(zip(names, tensors, strict=False))
        if kind == "nested":
            return {"a": {"b": tensors[0], "c": list(tensors)}, "a_b": tensors[-1]}
        if kind == "odd numbers":
            flat = ops.cast(layers.Flatten()(tensors[0]), "float32")
            return [ops.log(flat * 0), ops.sqrt(-1 - ops.abs(flat)), flat]
        head = layers.Dense(2, name=self.rng.choice(["head", "the-head", "the head"]))
        return [head(layers.Flatten()(ops.cast(x, "float32"))) for x in tensors[:1]] * 2 + tensors


def matched(expected, got):
    """Whether the two lists hold the same arrays in any order."""
    left = list(got)
    for array in expected:
        same = [
            index
            for index, other in enumerate(left)
            if other.shape == array.shape and np.allclose(other, array, atol=1e-4, equal_nan=True)
        ]
        if not same:
            return False
        del left[same[0]]
    return not left


def served_names(inputs, names):
    """The server's name for each of the model's input names."""
    if names[0] not in SERVED:  # Keras named the input of a Sequential
        return list(inputs)
    assert {SERVED[name] for name in names} == set(inputs)
    return [SERVED[name] for name in names]


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[] if s < 8 else pytest.mark.slow) for s in range(100)]
)
def test_served_outputs_equal_keras(seed, tmp_path, process, one_process):
    made = RandomModel(seed)
    if any(" " in layer.name for layer in made.model.layers if layer.weights):
        with pytest.raises(
            ValueError, match="`model` must have layers with names of .* got 'the head'"
        ):
            export.publish(made.model, tmp_path / "model")
        return
    servable = export.publish(made.model, tmp_path / "model")
    inputs, outputs = servable.signatures["serving_default"]
    assert len(inputs) == len(made.batch)
    structure = getattr(made.model, "_functional", made.model).input
    names = [tensor.name for tensor in keras.tree.flatten(structure)]
    batch = dict(zip(served_names(inputs, names), made.batch, strict=True))
    (answer,) = process.run(servable.path, [("serving_default", batch, True)])
    assert not isinstance(answer, str), answer
    expected = keras.tree.flatten(made.model(keras.tree.pack_sequence_as(structure, made.batch)))
    assert len(outputs) == len(expected) == len(answer)
    assert matched([np.asarray(value) for value in expected], answer.values())
