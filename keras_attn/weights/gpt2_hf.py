"""GPT-2 as the library transformers saves it; its kernels are stored as [input, output]."""

from keras_attn.weights.rule import THIRDS, Format, Rule, norm


def _dense(source: str, target: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{source}.weight", f"{target}/kernel"),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


FORMAT = Format(
    name="gpt2",
    family="gpt",
    size={
        "num_layers": "n_layer",
        "hidden_dim": "n_embd",
        "num_heads": "n_head",
        "intermediate_dim": lambda config: config.get("n_inner") or 4 * config["n_embd"],
        "vocabulary_size": "vocab_size",
        "max_length": "n_positions",
        "dropout": "resid_pdrop",
        "layer_norm_epsilon": "layer_norm_epsilon",
        "activation": "activation_function",
        "initializer_range": "initializer_range",
    },
    trunk=(
        Rule("wte.weight", "token_embedding/embeddings"),
        Rule("wpe.weight", "position/table"),
        *norm("h.{i}.ln_1", "block_{i}/self_attention_norm"),
        *(
            Rule(
                f"h.{{i}}.attn.c_attn.{theirs}",
                f"block_{{i}}/self_attention/{name}/{ours}",
                third,
            )
            for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
            for name, third in zip(("query", "key", "value"), THIRDS, strict=True)
        ),
        *_dense("h.{i}.attn.c_proj", "block_{i}/self_attention/output"),
        *norm("h.{i}.ln_2", "block_{i}/feed_forward_norm"),
        *_dense("h.{i}.mlp.c_fc", "block_{i}/feed_forward/hidden"),
        *_dense("h.{i}.mlp.c_proj", "block_{i}/feed_forward/output"),
        *norm("ln_f", "norm"),
    ),
    parts={},
    renames=((r"^transformer\.", ""),),
    # The causal mask, which old files hold as an array.
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
    tied={"lm_head.weight": "wte.weight"},
    requires={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
)
