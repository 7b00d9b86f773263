import functools
import io
import json

import pytest
import sentencepiece
import tensorflow as tf
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import normalizers

from keras_attn.data.text.spans import hide_zeros, show_zeros
from keras_attn.data.text.unicode_maps import Normalizer
from tests.data.text.test_byte_pair_tokenizer import UNUSUAL


@functools.cache
def charsmap(rule="nmt_nfkc"):
    """The map of characters that sentencepiece compiles into its models."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b"]),
        model_writer=file,
        vocab_size=9,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(file.getvalue())
    return model.normalizer_spec.precompiled_charsmap


def assert_same(normalizer, texts):
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = normalizer
    own = Normalizer(json.loads(made.to_str())["normalizer"])
    got = show_zeros(own(hide_zeros(tf.constant(texts)))).numpy()
    for text, mine in zip(texts, got, strict=True):
        assert mine.decode() == normalizer.normalize_str(text), repr(text)


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.NFKD(),
        normalizers.Lowercase(),
        normalizers.StripAccents(),
        normalizers.Strip(),
        normalizers.Strip(left=True, right=False),
        normalizers.Replace("\\", "\\1"),
        normalizers.Replace(tokenizers.Regex(r"\A +| +\z"), ""),
        normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
        normalizers.Sequence([normalizers.Precompiled(charsmap()), normalizers.Lowercase()]),
    ],
    ids=str,
)
def test_normalizers_equal_the_package(normalizer):
    assert_same(
        normalizer,
        [*UNUSUAL, " a ", "\\", "ΑΣ ΣΑΣ İ", "a\u0301①\u0301\r\n", "\u0600a\u0301", "a\ufffd\u0301"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc_cf"])
def test_a_compiled_map_equals_the_package_on_each_code_point(rule):
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = [f"a{c}\u0301b{c}c \u0300{c}" for c in points]
    for begin in range(0, len(texts), 65536):
        assert_same(normalizers.Precompiled(charsmap(rule)), texts[begin : begin + 65536])
