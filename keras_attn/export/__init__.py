"""From Python to a server."""

from keras_attn.export.ask import ask
from keras_attn.export.generation import Generation
from keras_attn.export.saved_model import publish
from keras_attn.export.servable import Servable, Tensor
from keras_attn.export.signature import Signature

__all__ = ["Generation", "Servable", "Signature", "Tensor", "ask", "publish"]
