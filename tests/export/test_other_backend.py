import functools

import keras
import numpy as np
import pytest

from keras_attn import data, decoding, export, models
from tests.export import small

pytestmark = pytest.mark.backends("jax", "torch", reason="on TensorFlow there is no other backend")


@pytest.mark.slow_on("jax")  # the next test runs the same child process there
def test_served_outputs_equal_the_training_backend(model, tmp_path):
    made = export.publish(
        model, tmp_path / "bert", **small.masked_lm_layers(), signatures=["serving_default"]
    )
    texts = ["the [MASK] sat on a [MASK].", "[MASK]"]
    features = small.masked_lm_layers()["preprocessor"](texts)
    inputs = {key: features[key].numpy() for key in model.input}
    logits = np.asarray(model.predict_on_batch(inputs)["masked_lm"], "float64")
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    best = np.sort(chances, axis=-1)[..., :-3:-1] * features["masked_weights"].numpy()[..., None]
    got = small.ask_here(made.path, text=texts)
    np.testing.assert_allclose(got["probabilities"], best, atol=1e-5)


def test_errors_of_the_child_process_are_raised(model, tmp_path):
    with pytest.raises(ValueError, match="`signatures` must be among serving_default"):
        export.publish(model, tmp_path / "bert", signatures=["nothing"])


@pytest.mark.slow
def test_served_text_equals_the_training_backend(tmp_path):
    model, tokenizer = small.sharp_gpt(), data.BertTokenizer(small.VOCABULARY)
    generation = export.Generation(tokenizer, 5, 7, searches=["greedy"])
    made = export.publish(model, tmp_path / "gpt", generation=generation)
    got = export.ask(made.path, text=["the cat"], max_new_tokens=np.array([7], "int32"))["text"]
    search = functools.partial(
        decoding.greedy, max_new_tokens=7, stop_token_ids=[tokenizer.sep_id], padding_id=0
    )
    prompt = np.array([[2, *tokenizer(["the cat"]).to_list()[0]]])
    found = models.steps.generator(model, search, length=10)(prompt)["token_ids"]
    found = keras.ops.convert_to_numpy(found)[:, prompt.shape[1] :]
    assert got[0] == tokenizer.detokenize(found).numpy()[0].decode()
