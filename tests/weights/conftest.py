"""Small transformers models with random weights, and inputs of prime sizes."""

import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 37,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 19,
    "max_position_embeddings": 97,  # Keras on torch builds models with a length of 83
}
BATCH, LENGTH, CHOICES = 2, 7, 3


@pytest.fixture(autouse=True)
def _warnings_of_transformers_arrive(monkeypatch):
    """In `caplog`: its logger passes nothing on, except where the variable CI is set."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)


@pytest.fixture
def saved(tmp_path):
    """A function: class name and sizes -> (the transformers model, its directory)."""

    def make(architecture="BertModel", **overrides):
        kind = getattr(transformers, architecture)
        default = kind.config_class()  # DistilBERT has no `intermediate_size`
        sizes = {name: size for name, size in SIZES.items() if hasattr(default, name)}
        config = kind.config_class(**{**sizes, **overrides})
        torch.manual_seed(0)
        model = kind(config).eval()
        with torch.no_grad():  # biases and norms too: initial zeros and ones would hide errors
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(tmp_path)
        return model, tmp_path

    return make


@pytest.fixture
def inputs():
    """Inputs of our models, [B, T]: two segments, and padding in the second row."""
    ids = np.random.default_rng(0).integers(1, SIZES["vocab_size"], (BATCH, LENGTH))
    segments = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0]])
    mask = np.array([[True] * 7, [True] * 5 + [False] * 2])
    return {"token_ids": ids, "segment_ids": segments, "padding_mask": mask}


@pytest.fixture
def run_theirs():
    """A function: a transformers model and our inputs -> its outputs."""

    def run(model, inputs, **renamed):
        names = {
            "input_ids": "token_ids",
            "token_type_ids": "segment_ids",
            "attention_mask": "padding_mask",
            **renamed,
        }
        tensors = {n: torch.tensor(np.int64(inputs[ours])) for n, ours in names.items() if ours}
        with torch.no_grad():
            return model(**tensors)

    return run
