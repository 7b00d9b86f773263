"""What importing the package loads, checked in a new process."""

import os
import subprocess
import sys

import keras
import pytest

HEAVY = (
    *("tensorflow_text", "keras_hub", "keras_nlp", "matplotlib", "safetensors"),
    *("tokenizers", "transformers"),
)

WITHOUT_TENSORFLOW = """
import sys

for name in ("tensorflow", "tensorflow_text", "keras_hub", "keras_nlp"):
    sys.modules[name] = None  # as if it were not installed

import importlib, pkgutil
import keras, keras_attn, numpy as np
import keras_attn.training

for package_name in ("backend", "ops", "layers", "models", "training"):
    package = importlib.import_module(f"keras_attn.{package_name}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("_tf", "_jax", "_torch", ".tensorflow", ".jax", ".torch")):
            importlib.import_module(module.name)

keras.utils.set_random_seed(0)
model = keras_attn.models.bert.pretraining(
    "bert_tiny", num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=12, vocabulary_size=17
)
rows = np.ones((4, 5), "int32")
inputs = {"token_ids": rows, "segment_ids": rows, "padding_mask": rows == 1,
          "masked_positions": rows[:, :2]}
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01), {"masked_lm": loss, "next_sentence": loss})
history = model.fit(
    inputs, {"masked_lm": rows[:, :2], "next_sentence": rows[:, 0]}, epochs=10, verbose=0
).history["loss"]
assert history[-1] < history[0], history
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_importing_the_package_imports_no_heavy_dependency():
    # Keras itself imports matplotlib if it is installed.
    code = f"""
import sys, keras
before = set(sys.modules)
import keras_attn, keras_attn.data
print([name for name in {HEAVY!r} if name in set(sys.modules) - before])
"""
    assert run(code).strip() == "[]"


@pytest.mark.backends("jax", "torch", reason="TensorFlow must be absent")
def test_layers_models_and_training_run_without_tensorflow():
    run(WITHOUT_TENSORFLOW)
