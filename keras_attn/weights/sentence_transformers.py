"""Reads and writes the files in which sentence-transformers describes pooling.

A directory of this library has modules.json and a checkpoint of transformers, or a folder with one.
modules.json lists the model, the pooling of its tokens, and perhaps a normalization of the vector.
"""

from __future__ import annotations

import json
from pathlib import Path

from keras_attn import layers
from keras_attn._typing import Config
from keras_attn.data.text.files import read_json
from keras_attn.weights.checkpoint import Checkpoint, write_json

MODULES = "modules.json"
# Their modes of pooling and ours. In files before version 6 each mode has its own key.
MODES = {"cls": "first", "mean": "mean", "max": "max", "lasttoken": "last"}
KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
DEFAULTS = {
    "sentence_bert_config.json": {"do_lower_case": False},
    "config_sentence_transformers.json": {"default_prompt_name": None},
}


def checkpoint_folder(directory: Path) -> Path:
    """The folder with the checkpoint: the directory, or the folder that modules.json names."""
    if not (directory / MODULES).exists():
        return directory
    return directory / _modules(directory)[0][1]


def embedder_options(directory: Path, checkpoint: Checkpoint) -> Config:
    """The arguments of `models.bert_tasks.embedder`; none without modules.json.

    Raises:
        ValueError: there is no layer for a module or a setting.
    """
    if not (directory / MODULES).exists():
        return {}
    (_, inside), *rest = _modules(directory)
    kinds = [kind for kind, _ in rest]
    if kinds not in (["Pooling"], ["Pooling", "Normalize"]):
        raise ValueError(
            f"{directory / MODULES} must list Transformer, Pooling and perhaps Normalize, got "
            f"Transformer, {', '.join(kinds)}"
        )
    for name, required in DEFAULTS.items():
        for file in {directory / name, directory / inside / name}:
            settings = read_json(file) if file.exists() else {}
            for key, value in required.items():
                lower = key == "do_lower_case" and checkpoint.lowercase
                if not lower and settings.get(key, value) != value:
                    raise ValueError(
                        f"{file}: `{key}` must be {json.dumps(value)}, got {settings[key]!r}: "
                        "change it in the file, and apply it to the texts yourself"
                    )
    return {
        "pooling": _pooling(directory / rest[0][1] / "config.json"),
        "normalize": len(kinds) == 2,
    }


def write_modules(
    pooling: layers.SequencePooling, width: int, directory: Path, kept: Config
) -> None:
    """modules.json and the folders that it names, for a checkpoint in `directory`.

    `kept` are settings of sentence_bert_config.json.
    """
    theirs = {ours: mode for mode, ours in MODES.items()}[pooling.mode]
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    if pooling.normalize:
        paths["Normalize"] = "2_Normalize"
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (kind, path) in enumerate(paths.items())
    ]
    for path in paths.values():
        (directory / path).mkdir(exist_ok=True)
    write_json(directory / MODULES, modules)
    settings = {"max_seq_length": None, **DEFAULTS["sentence_bert_config.json"], **kept}
    write_json(directory / "sentence_bert_config.json", settings)
    modes = {key: mode == theirs for key, mode in KEYS.items()}
    write_json(
        directory / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes}
    )


def _modules(directory: Path) -> list[tuple[str, str]]:
    """The kind and the folder of each module, a Transformer first."""
    file = directory / MODULES
    try:
        modules = sorted(json.loads(file.read_text(encoding="utf-8")), key=lambda m: m["idx"])
        found = [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} must be a JSON list of modules with idx, path and type, got a file that "
            f"raises {error!r}"
        ) from error
    if not found or found[0][0] != "Transformer":
        kinds = ", ".join(kind for kind, _ in found) or "nothing"
        raise ValueError(f"{file} must begin with a Transformer, got {kinds}")
    return found


def _pooling(file: Path) -> str:
    """Our mode of pooling, from the configuration file of the module."""
    config = read_json(file)
    modes = config.get("pooling_mode", [mode for key, mode in KEYS.items() if config.get(key)])
    modes = modes or "mean"
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or modes[0] not in tuple(MODES):
        raise ValueError(
            f"{file} must have one pooling mode among {', '.join(MODES)}, "
            f"got {' and '.join(map(str, modes))}"
        )
    if config.get("include_prompt", True) is not True:
        raise ValueError(
            f"{file}: `include_prompt` must be true, since no layer leaves out a prompt, "
            f"got {config['include_prompt']!r}"
        )
    return MODES[modes[0]]
