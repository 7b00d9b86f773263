"""The protocols of preprocessors and postprocessors."""

import pytest

from keras_attn import data
from keras_attn.data import Postprocessor, Preprocessor, check_protocol

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
PREPROCESSORS = [
    data.BertPreprocessor(VOCABULARY, 9),
    data.PairPreprocessor(VOCABULARY, 9),
    data.ChoicePreprocessor(VOCABULARY, 9),
    data.MaskedLMPreprocessor(VOCABULARY, 9),
    data.WordsPreprocessor(VOCABULARY, 9, ["O"]),
    data.SpanPreprocessor(VOCABULARY, 9, 2, 1),
]
POSTPROCESSORS = [
    data.ClassificationPostprocessor(["a"]),
    data.TaggingPostprocessor(VOCABULARY, ["O"]),
    data.MaskedLMPostprocessor(VOCABULARY, 2),
    data.SpanPostprocessor(),
]


@pytest.mark.parametrize("layer", PREPROCESSORS, ids=lambda layer: layer.name)
def test_preprocessors_follow_their_protocol(layer):
    assert isinstance(layer, Preprocessor)
    check_protocol("preprocessor", layer, Preprocessor)
    examples = layer.examples(5, 2)
    assert list(examples) == list(layer.text_inputs)
    assert all(len(strings) == 2 for strings in examples.values())
    features = layer(*examples.values())
    assert {"token_ids", "padding_mask"} <= set(features)
    assert features["token_ids"].shape[-1] <= layer.length


@pytest.mark.parametrize("layer", POSTPROCESSORS, ids=lambda layer: layer.name)
def test_postprocessors_follow_their_protocol(layer):
    assert isinstance(layer, Postprocessor)
    check_protocol("postprocessor", layer, Postprocessor)


def test_a_layer_without_the_protocol_raises():
    class Half:
        length = 9

        def __call__(self, text):
            return {}

    message = "`before` must follow the protocol keras_attn.data.Preprocessor, got Half without "
    with pytest.raises(TypeError, match=f"{message}text_inputs, examples"):
        check_protocol("before", Half(), Preprocessor)
    with pytest.raises(TypeError, match="keras_attn.data.Postprocessor, got str without __call__"):
        check_protocol("postprocessor", "best", Postprocessor)
