"""What lies in a checkpoint directory."""

import dataclasses
from pathlib import Path
from typing import Any

from keras_attn.data import read_vocabulary
from keras_attn.weights import bert_google, bert_hf, distilbert_hf, gpt2_hf, keras_hub, roberta_hf
from keras_attn.weights.rule import Format
from keras_attn.weights.source import (
    INDEX,
    Source,
    of_safetensors,
    of_tensorflow,
    of_weights,
    read_json,
)

FORMATS = {
    "bert": bert_hf.FORMAT,
    "distilbert": distilbert_hf.FORMAT,
    "roberta": roberta_hf.FORMAT,
    "gpt2": gpt2_hf.FORMAT,
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is not yet a model.

    Args:
        source: its arrays.
        format: which kind it is.
        config: its configuration.
        vocabulary: the pieces in the order of their ids, or None where there is no file of them.
        lowercase: whether text is lower-cased first, or None where no file says so.
    """

    source: Source
    format: Format
    config: dict[str, Any]
    vocabulary: list[str] | None = None
    lowercase: bool | None = None

    @property
    def architecture(self) -> str | None:
        """The class that it was saved from, where it says so."""
        return next(iter(self.config.get("architectures") or ()), None)


def open_checkpoint(directory: Path) -> Checkpoint:
    """Recognize a checkpoint by its files.

    Raises:
        ValueError: no directory, none or several checkpoints in it, a pickle, an architecture that
            is not known, a file that cannot be read.
    """
    if not directory.is_dir():
        raise ValueError(f"`source` must be a directory or a keras-hub backbone, got {directory}")
    if (directory / "model.safetensors").exists() or (directory / INDEX).exists():
        return _hf(directory)
    if list(directory.glob("*.index")):
        return _google(directory)
    if (directory / "model.weights.h5").exists():
        return _preset(directory)
    pickles = sorted(file.name for file in directory.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{directory / pickles[0]} is a pickle, which can run any code when it is opened, so "
            "it is not: let transformers save the model again, as model.safetensors"
        )
    found = ", ".join(sorted(file.name for file in directory.iterdir())) or "nothing"
    raise ValueError(
        f"{directory} must hold model.safetensors, a TensorFlow checkpoint (*.index) or a "
        f"keras-hub preset, got {found}"
    )


def of_backbone(backbone: Any) -> Checkpoint:
    """A keras-hub BertBackbone."""
    if type(backbone).__name__ != "BertBackbone":
        raise ValueError(
            f"`source` must be a keras-hub BertBackbone, got {type(backbone).__name__}"
        )
    source = of_weights(f"the backbone {backbone.name!r}", backbone.weights)
    return Checkpoint(source, keras_hub.FORMAT, backbone.get_config())


def _hf(directory: Path) -> Checkpoint:
    config = read_json(directory / "config.json")
    kind = config.get("model_type")
    if kind not in FORMATS:
        raise ValueError(
            f"{directory / 'config.json'} must have a model_type among {', '.join(FORMATS)}, "
            f"got {kind!r}"
        )
    source = of_safetensors(directory)
    return Checkpoint(source, FORMATS[kind], config, *_vocabulary(directory))


def _google(directory: Path) -> Checkpoint:
    config = read_json(directory / "bert_config.json")
    prefixes = sorted(directory.glob("*.index"))
    if len(prefixes) > 1:
        raise ValueError(
            f"{directory} must hold one TensorFlow checkpoint, "
            f"got {', '.join(prefix.stem for prefix in prefixes)}"
        )
    source = of_tensorflow(prefixes[0].with_suffix(""))
    return Checkpoint(source, bert_google.FORMAT, config, *_vocabulary(directory))


def _preset(directory: Path) -> Checkpoint:
    import keras_hub as hub

    checkpoint = of_backbone(hub.models.Backbone.from_preset(str(directory)))
    vocabulary, lowercase = _vocabulary(directory / "assets" / "tokenizer")
    return dataclasses.replace(checkpoint, vocabulary=vocabulary, lowercase=lowercase)


def _vocabulary(directory: Path) -> tuple[list[str] | None, bool | None]:
    """The pieces, from whichever file has them, and whether text is lower-cased."""
    lowercase = None
    if (directory / "tokenizer_config.json").exists():
        lowercase = read_json(directory / "tokenizer_config.json").get("do_lower_case")
    if (directory / "vocab.txt").exists():
        return read_vocabulary(directory / "vocab.txt"), lowercase
    ids = None
    if (directory / "vocab.json").exists():
        ids = read_json(directory / "vocab.json")
    elif (directory / "tokenizer.json").exists():
        ids = read_json(directory / "tokenizer.json").get("model", {}).get("vocab")
    return sorted(ids, key=ids.get) if isinstance(ids, dict) else None, lowercase
