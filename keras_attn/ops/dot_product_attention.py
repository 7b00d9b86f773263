"""`keras.ops.dot_product_attention` by our kernels: called as ours, or in the place of Keras'.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head width,
Hv value width.
"""

from typing import Self

import keras
from keras import ops

from keras_attn._keras import backend_nn, register
from keras_attn._typing import Tensor
from keras_attn.ops.attention import attention
from keras_attn.ops.masks import AttentionMask
from keras_attn.ops.numerics import common


def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    flash_attention: bool | None = None,
    attn_logits_soft_cap: float | None = None,
) -> Tensor:
    """`keras.ops.dot_product_attention`, with the same arguments, computed by `ops.attention`.

    Differences: a query that may attend to no key gives zeros, where Keras gives a mean of all
    values; every backend takes `bias` and `mask` together, and the soft cap.

    Args:
        query: float `[B, T, N, H]`.
        key: float `[B, S, K, H]`; N must be a multiple of K (grouped-query attention).
        value: float `[B, S, K, Hv]`.
        bias: float, broadcastable to `[B, N, T, S]`; added to the logits.
        mask: bool, broadcastable to `[B, N, T, S]`; True means "may attend". In a mask of numbers
            this is all but zero. An additive mask (some below zero, none above, or some -1000 or
            less) raises where its numbers are known.
        scale: scale of the logits; defaults to `1 / sqrt(H)`.
        is_causal: whether a query sees only the keys up to its own position.
        flash_attention: True for the kernel "fused", or an error that says why it cannot run;
            None and False leave the choice to `ops.attention`.
        attn_logits_soft_cap: the bound c that the logits only come near to; None for none.

    Returns:
        `[B, T, N, Hv]`, in the common dtype of query, key and value.

    Raises:
        ValueError: as `ops.attention`.

    Example:
    >>> import numpy as np
    >>> from keras_attn import ops
    >>> rows = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype("float32")
    >>> ours = ops.dot_product_attention(rows, rows, rows, is_causal=True)
    >>> keras_own = keras.ops.dot_product_attention(rows, rows, rows, is_causal=True)
    >>> bool(keras.ops.max(keras.ops.abs(ours - keras_own)) < 1e-5)
    True
    """
    options = {
        "scale": scale,
        "is_causal": is_causal,
        "flash_attention": flash_attention,
        "attn_logits_soft_cap": attn_logits_soft_cap,
    }
    tensors = (query, key, value, bias, mask)
    if any(isinstance(tensor, keras.KerasTensor) for tensor in tensors):
        return DotProductAttention(**options)(*tensors)
    return _attend(*tensors, **options)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    scale: float | None,
    is_causal: bool,
    flash_attention: bool | None,
    attn_logits_soft_cap: float | None,
) -> Tensor:
    query, key, value = map(ops.convert_to_tensor, (query, key, value))
    dtype = common(query.dtype, key.dtype, value.dtype)
    if mask is not None:
        mask = _rank_four(ops.convert_to_tensor(mask))
    return attention(
        *(ops.cast(tensor, dtype) for tensor in (query, key, value)),
        bias=None if bias is None else _rank_four(ops.convert_to_tensor(bias)),
        mask=AttentionMask(causal=bool(is_causal), dense=mask),
        scale=scale,
        logits_soft_cap=attn_logits_soft_cap,
        kernel="fused" if flash_attention else "auto",
    )


def _rank_four(tensor: Tensor) -> Tensor:
    missing = 4 - len(tensor.shape)
    return ops.expand_dims(tensor, tuple(range(missing))) if missing > 0 else tensor


@register()
class DotProductAttention(keras.Operation):
    """The node of a functional model that `dot_product_attention` makes of symbolic tensors.

    Args:
        scale: as in `dot_product_attention`, as the others.
        is_causal: the same.
        flash_attention: the same.
        attn_logits_soft_cap: the same.
        name: name of the node.
    """

    def __init__(
        self,
        scale: float | None = None,
        is_causal: bool = False,
        flash_attention: bool | None = None,
        attn_logits_soft_cap: float | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.scale = scale
        self.is_causal = is_causal
        self.flash_attention = flash_attention
        self.attn_logits_soft_cap = attn_logits_soft_cap

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The context `[B, T, N, Hv]`."""
        return _attend(
            query,
            key,
            value,
            bias,
            mask,
            scale=self.scale,
            is_causal=self.is_causal,
            flash_attention=self.flash_attention,
            attn_logits_soft_cap=self.attn_logits_soft_cap,
        )

    def compute_output_spec(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> keras.KerasTensor:
        """The shape and dtype of `call`'s result."""
        dtype = common(query.dtype, key.dtype, value.dtype)
        return keras.KerasTensor((*query.shape[:-1], value.shape[-1]), dtype)


class Enabled:
    """What `enable` returns: `disable()`, or the end of a `with`, restores Keras' function."""

    _active: set["Enabled"] = set()  # held, since a new object may get the id of a lost one
    _of_keras = staticmethod(backend_nn.dot_product_attention)

    def __init__(self) -> None:
        self._active.add(self)
        backend_nn.dot_product_attention = dot_product_attention

    def disable(self) -> None:
        """Give Keras its own function back, once all who enabled ours have disabled it."""
        self._active.discard(self)
        if not self._active:
            backend_nn.dot_product_attention = self._of_keras

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.disable()


def enable() -> Enabled:
    """Let all code that calls `keras.ops.dot_product_attention` run through our kernels.

    Keras' MultiHeadAttention and GroupQueryAttention call it, many layers of keras-hub, and user
    code. One function is replaced, `dot_product_attention` of the backend that runs, which
    `keras.ops.dot_product_attention` calls, also if it was imported under another name.

    There are exceptions: layers that return attention weights or have dropout, which compute
    attention by other functions; functions that are compiled already (a `tf.function`, the
    functions of an earlier `fit` or `predict`, a jitted function); `attn_logits_soft_cap`, which
    `keras.ops.dot_product_attention` itself refuses on most machines. A query that may attend to no
    key gives zeros, where Keras gives a mean of all values.

    Returns:
        An object whose method `disable()` restores Keras' function; also a context manager.

    Example:
    >>> import keras_attn
    >>> layer = keras.layers.MultiHeadAttention(2, 4)
    >>> rows = keras.random.normal((1, 5, 8), seed=0)
    >>> before = layer(rows, rows)
    >>> with keras_attn.enable():
    ...     difference = keras.ops.max(keras.ops.abs(layer(rows, rows) - before))
    >>> bool(difference < 1e-5)
    True
    """
    return Enabled()
