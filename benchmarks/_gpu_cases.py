"""What `gpu.py` runs, one case in one process; `tiny` is for a CPU.

Letters: T query length, S key length, B batch, N heads, H head width.
"""

import itertools
import statistics
import time

import _attention_sides

MASKS = ("none", "causal", "window", "padding")
SIZES = {"base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096), "tiny": (1, 16, 2, 32)}
VOCABULARY, MASKED = 30_522, 0.15
LENGTHS, POSITIONS = [1024, 4096, 16_384, 65_536], 16_384


def kernels(case, tiny):
    """The largest error of the output and the gradients of one kernel, relative to float64."""
    import numpy as np
    from keras import ops as keras_ops

    from keras_attn import ops

    batch, length, heads, width = (2, 24, 2, 8) if tiny else (2, 384, 4, 64)
    random, errors = np.random.default_rng(0), {}
    arrays = [random.normal(size=(batch, length, heads, width)) for _ in range(4)]
    how = {"kernel": case["kernel"]}
    how |= {"block_size": 8 if tiny else 128} if case["kernel"] == "chunked" else {}
    place, valid = np.arange(length), np.arange(length) < np.array([[length], [length // 2]])
    for name in MASKS:
        tensors = [keras_ops.convert_to_tensor(array, case["dtype"]) for array in arrays]
        rounded = [
            np.float64(keras_ops.convert_to_numpy(keras_ops.cast(t, "float32"))) for t in tensors
        ]
        mask = ops.AttentionMask(
            causal=name == "causal",
            window=9 if name == "window" else None,
            key_padding=keras_ops.convert_to_tensor(valid) if name == "padding" else None,
        )
        seen = np.ones((batch, 1, length, length), bool)
        if name == "causal":
            seen &= place[:, None] >= place
        if name == "window":
            seen &= abs(place[:, None] - place) < 9
        if name == "padding":
            seen &= valid[:, None, None]
        try:
            found = _value_and_gradients(
                lambda q, k, v, mask=mask: ops.attention(q, k, v, mask=mask, **how),
                tensors,
            )
        except (ValueError, NotImplementedError) as refusal:
            errors[name] = f"refused: {refusal}"
            continue
        wanted = _exact(*rounded, seen)
        errors[name] = max(
            float(abs(have - want).max() / abs(want).max())
            for have, want in zip(found, wanted, strict=True)
        )
        limit = 2e-2 if case["dtype"] == "bfloat16" else 2e-3  # TF32, where products are in it
        assert errors[name] < limit, (name, errors[name])
    return {"errors": errors}


def _value_and_gradients(function, tensors):
    import keras
    import numpy as np

    *inputs, upstream = tensors
    if keras.backend.backend() == "jax":
        import jax

        context, pull = jax.vjp(jax.jit(function), *inputs)
        found = context, *pull(upstream)
    else:
        import torch

        leaves = [tensor.requires_grad_() for tensor in inputs]
        context = function(*leaves)
        found = context, *torch.autograd.grad(context, leaves, upstream)
    return [np.float64(keras.ops.convert_to_numpy(keras.ops.cast(t, "float32"))) for t in found]


def _exact(query, key, value, upstream, seen):
    """Attention and its gradients in numpy."""
    import numpy as np

    scale = query.shape[-1] ** -0.5
    logits = np.where(seen, scale * np.einsum("btnh,bsnh->bnts", query, key), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = np.einsum("btnh,bsnh->bnts", upstream, value)
    d_logits = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True))
    return (
        np.einsum("bnts,bsnh->btnh", weights, value),
        scale * np.einsum("bnts,bsnh->btnh", d_logits, key),
        scale * np.einsum("bnts,btnh->bsnh", d_logits, query),
        np.einsum("bnts,btnh->bsnh", weights, upstream),
    )


def training(case, tiny):
    """Seconds of a step of masked LM and next sentence with Adam, bfloat16, and useful FLOP/s."""
    import numpy as np

    layers, width, heads, hidden = SIZES[case["size"]]
    batch, length = case["batch"], case["length"]
    masked, random = max(1, int(MASKED * length)), np.random.default_rng(0)
    inputs = {
        "token_ids": random.integers(5, VOCABULARY, (batch, length), dtype="int32"),
        "segment_ids": np.tile(np.arange(length, dtype="int32") // (length // 2), (batch, 1)),
        "padding_mask": np.ones((batch, length), bool),
        "masked_positions": np.tile(np.arange(masked, dtype="int32"), (batch, 1)),
    }
    labels = {
        "masked_lm": random.integers(5, VOCABULARY, (batch, masked), dtype="int32"),
        "next_sentence": random.integers(0, 2, batch, dtype="int32"),
    }
    make = _transformers_steps if case["side"] == "transformers" else _keras_steps
    steps, count = make(case, (layers, width, heads, hidden), inputs, labels), 2 if tiny else 20
    seconds = _timed(lambda: steps(count), tiny) / count
    # Forward and backward are three times forward, and a product is a multiplication and a sum.
    token = layers * (4 * width**2 + 2 * width * hidden + 2 * length * width)
    head = width**2 + width * VOCABULARY
    operations = 6 * batch * (length * token + masked * head)
    return {"seconds": seconds, "flop_a_second": operations / seconds}


def _keras_steps(case, size, inputs, labels):
    """`model.fit` over one batch again and again; its logs are numbers, so the work is done."""
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    layers, width, heads, hidden = size
    if case["side"] == "keras_hub":
        import keras_hub

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        backbone = keras_hub.models.BertBackbone(
            VOCABULARY, layers, heads, width, hidden, dropout=case["dropout"]
        )
        positions = keras.Input((None,), dtype="int32", name="masked_positions")
        masked_lm = keras_hub.layers.MaskedLMHead(
            token_embedding=backbone.token_embedding, intermediate_activation="gelu"
        )(backbone.output["sequence_output"], mask_positions=positions)
        pooled = keras.layers.Dense(2)(backbone.output["pooled_output"])
        outputs = {"masked_lm": masked_lm, "next_sentence": pooled}
        model = keras.Model({**backbone.input, "masked_positions": positions}, outputs)
    else:
        from keras_attn import models, training

        loss = training.SmoothedCrossEntropy(label_smoothing=0.0)
        model = models.bert.pretraining(models.sizes.BertSize(*size, dropout=case["dropout"]))
    model.compile("adam", dict.fromkeys(labels, loss))

    def steps(count):
        batches = (batch for batch in itertools.repeat((inputs, labels)))
        model.fit(batches, steps_per_epoch=count, shuffle=False, verbose=0)

    return steps


def _transformers_steps(case, size, inputs, labels):
    """It computes the logits of all positions, which is not counted as useful."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    layers, width, heads, hidden = size
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=hidden,
        hidden_dropout_prob=case["dropout"],
        attention_probs_dropout_prob=case["dropout"],
    )
    model = BertForPreTraining(config).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    ids = torch.tensor(inputs["token_ids"], device=device).long()
    segments = torch.tensor(inputs["segment_ids"], device=device).long()
    targets = torch.full_like(ids, -100)
    masked = torch.tensor(labels["masked_lm"], device=device).long()
    targets[:, : masked.shape[1]] = masked
    follows = torch.tensor(labels["next_sentence"], device=device).long()

    def steps(count):
        for _ in range(count):
            with torch.autocast(device, torch.bfloat16):
                loss = model(
                    ids, token_type_ids=segments, labels=targets, next_sentence_label=follows
                ).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return steps


def attention(case, tiny):
    """Seconds of forward and backward for each length, 16 heads of 64, 16k positions or one row."""
    found = {}
    for length in (64,) if tiny else LENGTHS:
        batch = max(1, POSITIONS // length) if not tiny else 1
        asked = {"dtype": "bfloat16", "heads": 16, "batch": batch}
        asked |= {"side": case["side"], "mask": case["mask"]}
        asked["repeats"] = 1 if tiny else max(1, 16 * POSITIONS // length)
        try:
            run = _attention_sides.step(_attention_sides.Case(**asked))(length)
            found[length] = _timed(run, tiny) / asked["repeats"]
        except Exception as error:  # out of memory, under each backend's own name
            found[length] = f"{type(error).__name__}: {str(error)[:100]}"
            break
    return {"seconds": found}


def decoding(case, tiny):
    """Seconds of a generation at GPT-2-small size, and tokens a second."""
    import decoding as question

    if tiny:
        question.SIZE, question.LAYERS, question.NEW = "gpt_tiny", 1, 2
    answer = question.answers_of(case["side"], case["batch"])
    seconds = _timed(lambda: answer(""), tiny)
    return {"seconds": seconds, "tokens_a_second": case["batch"] * question.NEW / seconds}


def _timed(run, tiny):
    seconds = []
    for _ in range(2 if tiny else 5):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1 if tiny else 2 :])  # the first compile
