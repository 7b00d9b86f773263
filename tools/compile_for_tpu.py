"""Compiles training steps for a TPU with the TPU's own compiler, on a machine that has none.

    python -m pip install --target libtpu_files --no-deps libtpu  # the version of jax[tpu]
    PYTHONPATH=.:libtpu_files python tools/compile_for_tpu.py [--layers 2] [part of a name]

Nothing runs: what is shown is that the compiler takes the program, with how many of its kernels for
attention ("auto" chose them), how long compiling takes here, and what memory the step needs beside
the weights, the optimizer's state and the batch.
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")

import jax  # noqa: E402
import keras  # noqa: E402
import libtpu  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from keras_attn.models import bert, bert_tasks, gpt, modern_bert, packing  # noqa: E402

MASKED = 80  # positions of a row


def pretraining(rows: int, length: int, num_layers: int, **options: float) -> tuple:
    """BERT-base with both losses."""
    model = bert.pretraining("bert_base", num_layers=num_layers, **options)
    y = {"masked_lm": (rows, MASKED), "next_sentence": (rows,)}
    return model, {"masked_positions": (rows, MASKED)}, (rows, length), y


def language_model(rows: int, length: int, num_layers: int) -> tuple:
    """GPT-2 small without dropout."""
    return (
        gpt.decoder("gpt_small", num_layers=num_layers, dropout=0.0),
        {},
        (rows, length),
        (rows, length),
    )


def packed_rows(rows: int, length: int, num_layers: int) -> tuple:
    """ModernBERT-base on packed rows: windows, two rotary bases, several texts a row."""
    encoder = modern_bert.encoder("modern_bert_base", num_layers=num_layers)
    model = bert_tasks.masked_lm(encoder)
    return (
        packing.packed(model),
        {"masked_positions": (rows, MASKED)},
        (rows, length),
        (rows, MASKED),
    )


CASES: dict[str, Callable[[int], tuple]] = {
    "BERT-base, 32 x 128": lambda n: pretraining(32, 128, n),
    "BERT-base, 32 x 512": lambda n: pretraining(32, 512, n),
    "BERT-base, 32 x 512, attention without dropout": lambda n: pretraining(
        32, 512, n, attention_dropout=0.0
    ),
    "GPT-2 small, 8 x 1024": lambda n: language_model(8, 1024, n),
    "ModernBERT-base, 8 x 2048, packed": lambda n: packed_rows(8, 2048, n),
}


def step(case: tuple) -> tuple:
    """The training step in bfloat16 of one case, and the shapes of its arguments."""
    model, shapes, both, y = case
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = dict.fromkeys(y, loss) if isinstance(y, dict) else loss
    model.compile(keras.optimizers.AdamW(1e-4), loss)
    model.optimizer.build(model.trainable_variables)
    x = {
        name: np.zeros(shapes.get(name, both), "bool" if name == "padding_mask" else "int32")
        for name in model.input
    }
    y = keras.tree.map_shape_structure(lambda shape: np.zeros(shape, "int32"), y)
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = [[variable.value for variable in group] for group in variables]
    return model.train_step, (state, (x, y))


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="?", default="", help="only those whose names hold this")
    parser.add_argument("--layers", type=int, default=2, help="of each model; all others are alike")
    parser.add_argument("--topology", default="v5e:2x2", help="as JAX names it")
    options = parser.parse_args()
    os.environ.setdefault("TPU_LIBRARY_PATH", libtpu.get_library_path())
    devices = topologies.get_topology_desc(options.topology, platform="tpu").devices
    one = jax.sharding.SingleDeviceSharding(devices[0])
    jax.default_backend = lambda: "tpu"  # what chooses the kernel
    keras.config.set_dtype_policy("mixed_bfloat16")
    for name, make in CASES.items():
        if options.case in name:
            function, given = step(make(options.layers))
            given = jax.tree.map(
                lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=one), given
            )
            began = time.perf_counter()
            program = jax.jit(function, donate_argnums=0).lower(*given).compile()
            seconds = time.perf_counter() - began
            kernels = program.as_text().count('custom_call_target="tpu_custom_call"')
            memory = program.memory_analysis().temp_size_in_bytes / 2**30
            print(
                f"{name}: {kernels} kernels, {seconds:.0f} s to compile, {memory:.2f} GiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
