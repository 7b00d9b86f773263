"""Servables that compute in another dtype; the parts of the model have LoRA or are quantized."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from keras_attn import data, decoding, export, models
from tests.export.small import SIZE, VOCABULARY, ask_here, sharp_gpt

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

WEIGHTS_ONLY = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
IDS = np.array([[3, 4, 5, 6, 7], [8, 9, 0, 0, 0]])


def classifier():
    encoder = models.bert.encoder(dataclasses.replace(SIZE, num_layers=1))
    inputs = {"token_ids": IDS, "segment_ids": 0 * IDS, "padding_mask": IDS > 0}
    return models.bert_tasks.classifier(encoder, 3), inputs


def gpt():
    return sharp_gpt(), {"token_ids": IDS, "padding_mask": IDS > 0}


def keras_attention():
    inputs = keras.Input((5, 7), name="numbers")
    hidden = keras.layers.MultiHeadAttention(3, 2)(inputs, inputs)
    model = keras.Model({"numbers": inputs}, keras.layers.Dense(3)(hidden))
    return model, {"numbers": np.random.default_rng(1).normal(size=(2, 5, 7)).astype("float32")}


def parts_of(model):
    kinds = keras.layers.Dense | keras.layers.EinsumDense
    return [part for part in model._flatten_layers() if isinstance(part, kinds)]


def adapt(model):
    """Give every part LoRA that changes the outputs."""
    rng = np.random.default_rng(2)
    for part in parts_of(model):
        part.enable_lora(2, lora_alpha=3)
        part.lora_kernel_b.assign(0.3 * rng.normal(size=part.lora_kernel_b.shape))


def quantize(model, config=None):
    for part in parts_of(model):
        part.quantize("int8", type_check=False, config=config)


CHANGES = {
    "lora": adapt,
    "int8": quantize,
    "weights only": functools.partial(quantize, config=WEIGHTS_ONLY),
}


FAST = ("lora-gpt", "int8-classifier", "weights only-gpt", "weights only-keras_attention")


def _changed_models():
    for make in (classifier, gpt, keras_attention):
        for change in CHANGES:
            name = f"{change}-{make.__name__}"
            marks = () if name in FAST else pytest.mark.slow
            yield pytest.param(change, make, id=name, marks=marks)


@pytest.mark.parametrize(("change", "make"), [*_changed_models()])
def test_served_outputs_equal_those_of_the_model(change, make, tmp_path, checked_here):
    keras.utils.set_random_seed(0)
    model, inputs = make()
    before = np.asarray(model(inputs))
    CHANGES[change](model)
    expected = np.asarray(model(inputs))
    scale = np.abs(expected).max()
    if change == "lora":
        assert np.abs(expected - before).max() > 0.1 * scale
    inputs = {name: value.astype(model.input[name].dtype) for name, value in inputs.items()}
    # Keras has no int8 in float16, and refuses to make such a layer; ours stays in float32.
    dtypes = {"float32": 1e-5, "bfloat16": 0.05}
    if make is classifier:
        dtypes["float16"] = 0.05
    for dtype, tolerance in dtypes.items():
        made = export.publish(model, tmp_path / dtype, compute_dtype=dtype)
        (got,) = ask_here(made.path, **inputs).values()
        np.testing.assert_allclose(got, expected, atol=tolerance * scale)


def test_an_int8_decoder_generates_in_bfloat16(tmp_path, checked_here):
    keras.utils.set_random_seed(0)
    model, tokenizer = sharp_gpt(), data.BertTokenizer(VOCABULARY)
    quantize(model)
    generation = export.Generation(tokenizer, 5, 7, searches=["greedy"], stop_id=1)
    made = export.publish(model, tmp_path, generation=generation, compute_dtype="bfloat16")
    with pytest.raises(ValueError, match="`compute_dtype` must be float32 or bfloat16 to gen"):
        export.publish(model, tmp_path, generation=generation, compute_dtype="float16")
    most = np.array([7], "int32")
    got = ask_here(made.path, text=["the cat"], max_new_tokens=most)["text"]
    search = functools.partial(decoding.greedy, max_new_tokens=7, stop_token_ids=[1], padding_id=0)
    prompt = np.array([[2, *tokenizer(["the cat"]).to_list()[0]]])
    found = models.steps.generator(model, search, length=10)(prompt)["token_ids"]
    assert got.tolist() == tokenizer.detokenize(found[:, 3:]).numpy().tolist()
