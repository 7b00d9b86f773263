"""What the heat map and the page are given: weights with three axes, tokens as text.

Letters: N heads, T query length, S key length.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np


def head_weights(name: str, weights: Any) -> np.ndarray:
    """Finite weights, float32 `[N, T, S]`; `[T, S]` is one head.

    Raises:
        ValueError: another rank, no head or token, a NaN or an infinity; it says where.
    """
    array = np.asarray(weights, "float32")
    if array.ndim not in (2, 3):
        raise ValueError(f"{name} must be [N, T, S] or [T, S], got shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must have a head, a query and a key, got shape {array.shape}")
    heads = array.reshape(-1, *array.shape[-2:])
    wrong = np.argwhere(~np.isfinite(heads))
    if len(wrong):
        head, query, key = wrong[0]
        raise ValueError(
            f"{name} must be finite, got {heads[head, query, key]} in {len(wrong)} places, first "
            f"at head {head}, query {query}, key {key}"
        )
    return heads


def token_texts(tokens: Iterable[Any]) -> list[str]:
    """Tokens as text: strings, bytes (UTF-8), numbers, or an array or a tensor of them."""
    if hasattr(tokens, "numpy"):
        tokens = tokens.numpy()
    return [_text(token) for token in tokens]


def _text(token: Any) -> str:
    if hasattr(token, "numpy"):  # a tensor of one token
        token = token.numpy()
    return token.decode("utf-8", "replace") if isinstance(token, bytes) else str(token)
