"""The equations of the papers in float64 numpy."""

import numpy as np
from scipy.special import erf


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def layer_norm(x, scale, shift, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + shift


def attention(query, value, key, weights, heads, allowed=None, key_heads=None):
    """Vaswani et al. 2017, section 3.2.2, head by head, from a dict of weights."""
    key_heads = key_heads or heads
    w = {name: weight.astype("float64") for name, weight in weights.items()}

    def project(x, name):
        return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)

    q, k, v = project(query, "query"), project(key, "key"), project(value, "value")
    width, value_width = q.shape[-1] // heads, v.shape[-1] // key_heads
    contexts, scores = [], []
    for head in range(heads):
        shared = head // (heads // key_heads)
        qs = q[..., head * width : (head + 1) * width]
        ks = k[..., shared * width : (shared + 1) * width]
        vs = v[..., shared * value_width : (shared + 1) * value_width]
        logits = qs @ ks.swapaxes(-1, -2) / np.sqrt(width)
        if allowed is not None:
            logits = np.where(allowed, logits, -np.inf)
        scores.append(softmax(logits))
        contexts.append(scores[-1] @ vs)
    return project(np.concatenate(contexts, -1), "output"), np.stack(scores, 1)


def feed_forward(x, weights, activation):
    w = {name: weight.astype("float64") for name, weight in weights.items()}
    hidden = activation(x @ w["hidden/kernel"] + w["hidden/bias"])
    return hidden @ w["output/kernel"] + w["output/bias"]
