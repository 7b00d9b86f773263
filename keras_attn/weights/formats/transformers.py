"""Keys that every configuration of the library transformers may have."""

# What these say otherwise is another model.
REQUIRES = {
    "is_decoder": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,  # code in the directory, which is not run
}

IRRELEVANT = (
    # What the file is
    *("_name_or_path", "architectures", "model_type", "transformers_version", "name", "language"),
    # What classes and ids mean, and the loss of transformers' Trainer
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("tokenizer_class", "prefix", "task_specific_params"),
    # What a call returns, and how it is computed: in chunks, with a cache, on which device
    *("return_dict", "output_hidden_states", "output_attentions", "use_cache", "output_past"),
    *("chunk_size_feed_forward", "gradient_checkpointing", "torchscript", "xla_device"),
    # The type of the stored numbers: ours is the argument `dtype`
    *("dtype", "torch_dtype", "use_bfloat16"),
    # How text is generated
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
    *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "suppress_tokens", "begin_suppress_tokens"),
    *("exponential_decay_length_penalty", "tie_encoder_decoder", "tf_legacy_loss"),
    # A tied output is checked in the weights
    "tie_word_embeddings",
    "tie_weights_",
)
