"""Packed rows of token ids and their masks for masked LM, in numpy: no TensorFlow is needed.

Letters: R rows, T length, B batch, P masked positions.
"""

from pathlib import Path

import keras
import numpy as np

MASKED = 0.15  # of the ordinary tokens of a row
MASK_TOKEN, RANDOM_TOKEN = 0.8, 0.1  # of the masked ones; the rest stays as it is


class Corpus:
    """What `modern_encoder.py prepare` wrote: documents as ids, and the ids that are no text."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self._arrays = dict(arrays)
        self.pad, _, self.begin, self.end, self.mask = self._arrays["special"].tolist()
        self.vocabulary_size = int(self._arrays["vocabulary_size"])
        self.ordinary = np.setdiff1d(np.arange(self.vocabulary_size), self._arrays["special"])

    def documents(self, part: str) -> list[np.ndarray]:
        """The documents of a part, each a vector of ids."""
        ends = np.cumsum(self._arrays[f"{part}_lengths"])
        return np.split(self._arrays[f"{part}_tokens"].astype("int32"), ends[:-1])

    def rows(self, part: str, length: int, multiple: int) -> dict[str, np.ndarray]:
        """The documents of a part, packed into rows `[R, T]`; R is a multiple of `multiple`.

        A document is cut where it is longer than a row. The longest come first, each into the
        first row with space; empty rows fill the last batch.
        """
        most = length - 2  # [CLS] before, [SEP] behind
        texts = [
            np.concatenate([[self.begin], document[start : start + most], [self.end]])
            for document in self.documents(part)
            for start in range(0, len(document), most)
        ]
        texts.sort(key=len, reverse=True)
        shape = len(texts) + multiple, length
        found = {
            name: np.zeros(shape, "int32") for name in ("token_ids", "sequence_ids", "positions")
        }
        found["token_ids"] += self.pad
        used, held = np.zeros(shape[0], int), np.zeros(shape[0], int)
        for text in texts:
            row = np.argmax(used + len(text) <= length)  # the first with space
            place = slice(used[row], used[row] + len(text))
            used[row] += len(text)
            held[row] += 1
            found["token_ids"][row, place] = text
            found["sequence_ids"][row, place] = held[row]
            found["positions"][row, place] = np.arange(len(text))
        count = multiple * -(-np.count_nonzero(used) // multiple)
        return {name: array[:count] for name, array in found.items()}

    def masked(self, rows: dict[str, np.ndarray], random: np.random.Generator) -> tuple:
        """Inputs, labels `[B, P]` and weights `[B, P]` of the rows, masked as BERT's are.

        Source: Devlin et al. 2019, section 3.1, task 1.
        """
        ids = rows["token_ids"].copy()
        text = np.isin(ids, self.ordinary)
        order = np.argsort(np.where(text, random.random(ids.shape), 1.0), axis=1)
        count = int(MASKED * ids.shape[1])
        real = np.arange(count) < np.round(MASKED * text.sum(axis=1, keepdims=True))
        positions = np.where(real, order[:, :count], 0)
        labels = np.take_along_axis(ids, positions, axis=1)
        chance = random.random(positions.shape)
        others = random.choice(self.ordinary, positions.shape)
        replaced = np.where(chance < MASK_TOKEN + RANDOM_TOKEN, others, labels)
        replaced = np.where(chance < MASK_TOKEN, self.mask, replaced)
        np.put_along_axis(ids, positions, np.where(real, replaced, labels), axis=1)
        inputs = {
            **rows,
            "token_ids": ids,
            "segment_ids": np.zeros_like(ids),
            "padding_mask": rows["sequence_ids"] > 0,
            "masked_positions": positions.astype("int32"),
            "first_positions": np.zeros((len(ids), 1), "int32"),  # a masked LM does not read it
        }
        return inputs, labels, real.astype("float32")


class Batches(keras.utils.PyDataset):
    """The batches of the steps from `first` to `last` of a training.

    Each epoch has an order of its own, and each step masks of its own, which depend on the seed
    and the step alone.
    """

    def __init__(
        self, corpus: Corpus, rows: dict, *, batch: int, seed: int, first: int, last: int
    ) -> None:
        super().__init__()
        self.corpus, self.rows, self.batch, self.seed = corpus, rows, batch, seed
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple:
        count = len(self.rows["token_ids"])
        epoch, place = divmod(self.first + index, count // self.batch)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(count)
        chosen = order[place * self.batch : (place + 1) * self.batch]
        rows = {name: array[chosen] for name, array in self.rows.items()}
        return self.corpus.masked(rows, np.random.default_rng((self.seed, 1, self.first + index)))
