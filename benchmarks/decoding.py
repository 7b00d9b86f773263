"""How fast is cached decoding at GPT-2-small size, compared with keras-hub and transformers?

    python benchmarks/decoding.py --batch 1 --sides ours keras_hub transformers
    python benchmarks/decoding.py --batch 8 --sides ours ours_beam4

Each side runs in its own process; the rounds alternate between the sides, since the speed of a
machine changes over time. The median of each and its ratio to the first go to
benchmarks/results/decoding.jsonl.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import _workers
from _results import keep, machine

PROMPT, NEW, VOCABULARY = 32, 128, 50_257
SIZE, LAYERS = "gpt_small", 12
SIDES = {  # name: backend, function below, its options
    "ours": ("tensorflow", "ours", {}),
    "ours_xla": ("tensorflow", "ours", {"xla": True}),
    "ours_jax": ("jax", "ours", {}),
    "ours_torch": ("torch", "ours", {}),
    "ours_beam4": ("tensorflow", "ours", {"beams": 4}),
    "keras_hub": ("tensorflow", "keras_hub", {}),
    "keras_hub_beam4": ("tensorflow", "keras_hub", {"beams": 4}),
    "keras_hub_xla": ("tensorflow", "keras_hub", {"xla": True}),
    "keras_hub_jax": ("jax", "keras_hub", {}),
    "transformers": ("torch", "transformers", {}),
}


def ours(prompt, beams=None, xla=False):
    """Our GPT, decoded by keras_attn.decoding."""
    import functools

    from keras_attn import decoding, models

    model = models.gpt.decoder(SIZE, vocabulary_size=VOCABULARY)
    if beams:
        search = functools.partial(decoding.beam_search, beams=beams, max_new_tokens=NEW)
    else:
        search = functools.partial(decoding.greedy, max_new_tokens=NEW)
    generate = decoding.compiled(
        models.steps.generator(model, search, length=PROMPT + NEW), model.variables, xla=xla
    )
    return lambda: generate(prompt)["token_ids"]


def keras_hub(prompt, beams=None, xla=False):
    """keras-hub's GPT-2, decoded by its generate."""
    import keras_hub
    import numpy as np

    backbone = keras_hub.models.GPT2Backbone(VOCABULARY, LAYERS, 12, 768, 3072)
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    sampler = keras_hub.samplers.BeamSampler(num_beams=beams) if beams else "greedy"
    model.compile(sampler=sampler, jit_compile=xla)
    room = np.zeros((len(prompt), PROMPT + NEW), "int32")
    room[:, :PROMPT] = prompt
    mask = np.arange(PROMPT + NEW)[None] < np.full((len(prompt), 1), PROMPT)
    inputs = {"token_ids": room, "padding_mask": mask}
    return lambda: model.generate(inputs, stop_token_ids=None)["token_ids"]


def transformers(prompt):
    """GPT2LMHeadModel on torch."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT2LMHeadModel(GPT2Config(n_layer=LAYERS)).eval().to(device)
    ids = torch.tensor(prompt, device=device)
    return lambda: model.generate(
        ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
    ).cpu()


def answers_of(side, batch):
    """Answers with the time of one generation in seconds, after a first one that compiles."""
    import keras
    import numpy as np

    _, function, options = SIDES[side]
    prompt = np.random.default_rng(0).integers(0, VOCABULARY, (batch, PROMPT))
    generate = globals()[function](prompt, **options)
    keras.ops.convert_to_numpy(generate())

    def answer(_):
        start = time.perf_counter()
        rows = keras.ops.convert_to_numpy(generate())
        seconds = time.perf_counter() - start
        assert rows.shape[-1] == PROMPT + NEW, rows.shape
        return seconds

    return answer


def main():
    """Start one worker for each side, time them in turn, print and store the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", default=["ours", "keras_hub"], choices=SIDES)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.worker:
        return _workers.serve(lambda: answers_of(options.worker, options.batch))

    started = {
        side: _workers.start(
            side, __file__, "--batch", str(options.batch), KERAS_BACKEND=SIDES[side][0]
        )
        for side in options.sides
    }
    workers = {side: worker for side, worker in started.items() if worker}
    seconds = {side: [] for side in workers}
    for _ in range(options.rounds):
        for side, worker in workers.items():
            seconds[side].append(_workers.ask(worker, "generate"))
    _workers.stop(workers)

    medians = {side: statistics.median(times) for side, times in seconds.items()}
    first = next(iter(medians.values()))
    record = {
        "batch": options.batch,
        "prompt": PROMPT,
        "new": NEW,
        "rounds": options.rounds,
        "seconds": {side: round(median, 3) for side, median in medians.items()},
        "speed_of_first": {side: round(median / first, 3) for side, median in medians.items()},
        **machine(),
    }
    keep(record, Path(__file__).parent / "results" / "decoding.jsonl")
    return None


if __name__ == "__main__":
    main()
