import numpy as np
import pytest

from keras_attn import export
from tests.export import small

pytestmark = pytest.mark.backends("jax", "torch", reason="on TensorFlow there is no other backend")


def test_the_servable_answers_as_the_backend_it_was_trained_on(model, tmp_path):
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
    np.testing.assert_allclose(export.ask(made.path, text=texts)["probabilities"], best, atol=1e-5)


def test_errors_come_through(model, tmp_path):
    with pytest.raises(ValueError, match="`signatures` must be among serving_default"):
        export.publish(model, tmp_path / "bert", signatures=["nothing"])
