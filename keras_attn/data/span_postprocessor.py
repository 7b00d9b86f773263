"""The logits of a span model to the best answer.

B batch, W windows of the context, T pieces of the longest row.
"""

from __future__ import annotations

from typing import Any

from keras_attn._register import register
from keras_attn.data._imports import tf
from keras_attn.data.postprocessor import Postprocessor

_NEVER = -1e9


@register()
class SpanPostprocessor(Postprocessor):
    """The best answer of all windows, the greatest start[i] + end[j] with i <= j < i + `longest`.

    There is none, and the answer is "", where every window would rather point at [CLS].

    Args:
        longest: the most pieces in an answer.

    Call arguments:
        outputs: a dict of logits, "start" and "end", each `[B, W, T]`, or `[B, T]` of one window.
        features: what `SpanPreprocessor` returned, with the strings "context" `[B]`. Without
            "offsets" and "context" only the pieces' places are given.

    Returns:
        A dict, each `[B]`: `answer` strings, as they stand in the context; `score` float32, by how
        much the logits prefer it to none; `window`, `start` and `end` int32: its first and last
        piece, 0 where there is none.

    Raises:
        ValueError: `longest` is below 1.

    Example:
    >>> logits = {"start": [[0.0, 1.0, 9.0, 0.0]], "end": [[0.0, 8.0, 0.0, 7.0]]}
    >>> offsets = [[[-1, -1], [0, 3], [4, 8], [9, 13]]]
    >>> features = {"offsets": offsets, "context": ["Ann sang loud"]}
    >>> SpanPostprocessor()(logits, features)["answer"].numpy().tolist()
    [b'sang loud']

    Reference: Devlin et al. 2018, "BERT", sections 4.2 and 4.3, https://arxiv.org/abs/1810.04805
    """

    def __init__(self, longest: int = 30, **kwargs: Any):
        super().__init__(**kwargs)
        if longest < 1:
            raise ValueError(f"`longest` must be at least 1, got {longest}")
        self.longest = longest

    def call(self, outputs: Any, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The answers in the text."""
        start, end = (tf.cast(outputs[name], tf.float32) for name in ("start", "end"))
        batch, length = tf.shape(start)[0], tf.shape(start)[-1]
        allowed = _allowed(features)
        start, end, allowed = (
            tf.reshape(tensor, [batch, -1, length]) for tensor in (start, end, allowed)
        )
        none = tf.where(tf.reduce_any(allowed, -1), start[..., 0] + end[..., 0], -_NEVER)
        none = tf.reduce_min(none, axis=1)  # [B]
        place = tf.range(length)
        ahead = place[None] - place[:, None]
        pairs = start[..., None] + end[..., None, :]  # [B, W, T, T]
        possible = allowed[..., None] & allowed[..., None, :]
        possible &= (ahead >= 0) & (ahead < self.longest)
        pairs = tf.reshape(tf.where(possible, pairs, _NEVER), [batch, tf.size(pairs) // batch])
        best = tf.argmax(pairs, axis=-1, output_type=tf.int32)
        score = tf.reduce_max(pairs, axis=-1) - none
        found = tf.where(score > 0, best, 0)
        window, first, last = found // length**2, found // length % length, found % length
        answer = {"score": score, "window": window, "start": first, "end": last}
        if "context" in features:
            offsets = tf.reshape(features["offsets"], [batch, -1, length, 2])
            begin = tf.gather_nd(offsets[..., 0], tf.stack([window, first], 1), batch_dims=1)
            past = tf.gather_nd(offsets[..., 1], tf.stack([window, last], 1), batch_dims=1)
            size = tf.where(score > 0, past - begin, 0)
            answer["answer"] = tf.strings.substr(features["context"], tf.maximum(begin, 0), size)
        return answer

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments."""
        return {**super().get_config(), "longest": self.longest}


def _allowed(features: dict[str, tf.Tensor]) -> tf.Tensor:
    """Where an answer may start or end: the pieces of the context."""
    if "offsets" in features:
        return tf.convert_to_tensor(features["offsets"])[..., 0] >= 0
    return features["padding_mask"] & (features["segment_ids"] == 1)
