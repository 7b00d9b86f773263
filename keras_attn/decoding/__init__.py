"""From logits to text: searches that know a step function, not a model."""

from keras_attn.backend import compiled
from keras_attn.decoding.beam import beam_search
from keras_attn.decoding.loop import decode, greedy
from keras_attn.decoding.sampling import sample

__all__ = ["beam_search", "compiled", "decode", "greedy", "sample"]
