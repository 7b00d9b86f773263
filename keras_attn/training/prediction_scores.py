"""Numbers that need all predictions at once, logged like metrics."""

from collections.abc import Callable
from typing import Any

import keras


class PredictionScores(keras.callbacks.Callback):
    """After each epoch, predict and log what a function makes of the predictions.

    The numbers join the epoch's logs, so that they come into the history, and into the logs of
    callbacks that stand behind this one in the list: EarlyStopping, ModelCheckpoint, TensorBoard.

    Args:
        inputs: what `model.predict` takes, always in the same order.
        score: from the predictions, arrays as `model.predict` gives them, to a dict of numbers.
        prefix: before each name in the logs.
        batch_size: of the prediction, as `model.predict` takes it.

    Example:
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((2, 1))
    >>> scores = PredictionScores(x, lambda predictions: {"rows": len(predictions)})
    >>> model.fit(x, x, verbose=0, callbacks=[scores]).history["val_rows"]
    [2]
    """

    def __init__(
        self,
        inputs: Any,
        score: Callable[[Any], dict[str, float]],
        prefix: str = "val_",
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.score = score
        self.prefix = prefix
        self.batch_size = batch_size

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Predict, score, and put the numbers into the logs."""
        predictions = self.model.predict(self.inputs, batch_size=self.batch_size, verbose=0)
        for name, value in self.score(predictions).items():
            logs[self.prefix + name] = value
