"""The weights of keras.layers.MultiHeadAttention."""

from keras_attn.weights.formats.format import FLAT, MERGED_FIRST, MERGED_LAST, rule

RULES = (
    rule("query/kernel", "query/kernel", MERGED_LAST),
    rule("query/bias", "query/bias", FLAT),
    rule("key/kernel", "key/kernel", MERGED_LAST),
    rule("key/bias", "key/bias", FLAT),
    rule("value/kernel", "value/kernel", MERGED_LAST),
    rule("value/bias", "value/bias", FLAT),
    rule("attention_output/kernel", "output/kernel", MERGED_FIRST),
    rule("attention_output/bias", "output/bias"),
)
