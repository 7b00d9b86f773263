"""A step function whose logits depend on every token so far, through the cache."""

import numpy as np
from keras import ops

from keras_attn.ops import cache as caches

V, L = 7, 11
TABLE = np.random.default_rng(0).normal(size=(L, V, V)).astype("float32")


def step(token_ids, index, cache, context):
    """Logits are the sum over positions j of TABLE[j, token at j]; the cache keeps the tokens."""
    tokens = ops.cast(token_ids, "float32")[:, None, :, None]
    cache = {name: ops.slice_update(cache[name], (0, 0, index, 0), tokens) for name in cache}
    cached = ops.cast(cache["key"][:, 0, :, 0], "int32")  # [B, L]
    rows = ops.take(ops.reshape(TABLE, (-1, V)), cached + V * ops.arange(L), axis=0)  # [B, L, V]
    written = ops.arange(L) < ops.cast(index, "int32") + ops.shape(token_ids)[1]
    return ops.sum(ops.where(written[None, :, None], rows, 0.0), axis=1), cache


def empty(rows):
    """The cache before the first token."""
    return caches.create(rows, L, 1, 1)


def log_probabilities(tokens):
    """Log-probabilities of the token after these, in float64 numpy."""
    logits = sum(TABLE[place, token].astype("float64") for place, token in enumerate(tokens))
    logits = logits - logits.max()
    return logits - np.log(np.exp(logits).sum())


def score(tokens, start):
    """The log-probability of the tokens from `start` on."""
    places = range(start, len(tokens))
    return sum(log_probabilities(tokens[:place])[tokens[place]] for place in places)


def follow(tokens, new, stops=()):
    """Greedy search in numpy."""
    tokens = list(tokens)
    for _ in range(new):
        tokens.append(int(log_probabilities(tokens).argmax()))
        if tokens[-1] in stops:
            break
    return tokens
