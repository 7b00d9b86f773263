"""What every tokenizer must do in a graph and in a SavedModel."""

import keras
import tensorflow as tf

from keras_attn.export.compatibility import check_operations


def check_graphs(own, texts, expected, folder):
    """tf.data, a loaded functional model, ragged strings and an empty batch give the ids."""
    batches = tf.data.Dataset.from_tensor_slices(texts).batch(50).map(own)
    assert [row for batch in batches for row in batch.to_list()] == expected
    text = keras.Input(shape=(), dtype="string")
    keras.Model(text, own(text)).save(folder / "model.keras")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    model = keras.saving.load_model(folder / "model.keras")
    assert model(tf.constant(texts)).to_list() == expected
    assert own(tf.ragged.constant([["a", ""], [], ["b"]])).shape.rank == 3
    assert own(tf.constant([], tf.string)).to_list() == []


def check_saved_model(own, texts, expected, folder):
    """Ids and back to text, with operations that the oldest server has."""
    archive = keras.export.ExportArchive()
    archive.track(own)
    spec = [tf.TensorSpec([None], tf.string, name="text")]
    archive.add_endpoint("serve", lambda text: own.detokenize(own(text)), spec)
    archive.write_out(str(folder / "saved"), verbose=False)
    check_operations(folder / "saved", "2.12")
    served = tf.saved_model.load(str(folder / "saved")).serve(tf.constant(texts))
    assert [text.decode() for text in served.numpy()] == expected
