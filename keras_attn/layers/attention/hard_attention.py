"""Attention that takes one place of the memory instead of a mean over all.

Letters: B batch, T query length, S memory length, Dq query width, Dm memory width.
"""

from typing import Any

import keras

from keras_attn._register import register
from keras_attn.layers.attention.memory_attention import MemoryAttention
from keras_attn.ops import scores, selection

_ESTIMATORS = ("straight_through", "gumbel", "reinforce")


@register()
class HardAttention(MemoryAttention):
    """Draw one place of the memory for each query; at inference take the best.

    `s ~ softmax(score(q, m))`, output `m_s`. How a gradient passes the draw is the estimator's
    matter: "straight_through" draws forward and pretends backward to be soft; "gumbel" draws softly,
    `softmax((logits + g) / temperature)`; "reinforce" passes none, and gives the log-probability of
    its draw to build a loss with: `-(reward - baseline) * log_probability`.

    Args:
        estimator: "straight_through", "gumbel" or "reinforce".
        score: "dot", "scaled_dot", "cosine", "general", "additive", "concat" or "location".
        units: width of the scores "additive" and "concat"; the query's width unless given.
        temperature: of "gumbel", a positive number.
        max_length: the longest memory; needed by the score "location" alone.
        kernel_initializer: of the score's weights.
        seed: of the draws; drawn anew unless given.

    Call arguments:
        query: float `[B, T, Dq]`.
        memory: float `[B, S, Dm]`.
        keys: as `memory` unless given.
        query_mask: bool `[B, T]`; a query where it is False attends to nothing.
        memory_mask: bool `[B, S]`; nobody attends to a place where it is False.
        query_offset: without effect here; every attention over a memory takes it.
        return_attention_scores: whether to return the weights too.
        training: whether to draw; otherwise the best place is taken.
        return_log_probability: whether to return the log-probability of the choice too.
        step_seed: integer tensor `[2]` to draw with, in place of the layer's own generator; a
            decoder's loop gives it.

    Masking: both masks count, and Keras fills them in from its own. A query that may attend to
    nothing gets zero weights, zero context and log-probability 0. The query's mask goes on to the
    output.

    Returns:
        Context `[B, T, Dm]`; then, if asked for, the weights, float32 `[B, T, S]`; then, if asked
        for, the log-probability, float32 `[B, T]`.

    Raises:
        ValueError: an unknown estimator or score, a temperature that is not positive, "location"
            without `max_length`, inputs that are not of rank 3.

    Source: Xu et al. 2015, section 4.1; Bengio et al. 2013; Jang et al. 2017.

    Example:

    >>> import keras
    >>> layer = HardAttention(score="dot")
    >>> memory = keras.ops.convert_to_tensor([[[1.0, 0.0], [0.0, 2.0]]])
    >>> layer(keras.ops.convert_to_tensor([[[0.0, 1.0]]]), memory).numpy().tolist()
    [[[0.0, 2.0]]]
    """
