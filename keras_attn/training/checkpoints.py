"""Training that continues after a crash exactly as if there had been none."""

import contextlib
import functools
import json
import os
import pathlib
import re
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_attn import backend
from keras_attn._checks import check_count, to_path
from keras_attn._typing import Nested
from keras_attn.ops import random
from keras_attn.training import state, state_file

_NAME = re.compile(r"step-([0-9]{10})\.(npz|part-[0-9]+-of-[0-9]+)")


class TrainingCheckpoint(keras.callbacks.Callback):
    """A callback that saves all that `model.fit` changes, also within an epoch, and restores it.

    A file has the weights, the optimizer's variables, the random generators of layers and of the
    backend, the state of the metrics, the logs of the epochs so far, and the number of batches
    taken from the data. A resumed epoch takes only the batches that are left, and its metrics, its
    validation and its logs are those of the whole epoch. The history that `fit` returns is that of
    the whole run. On a CPU the final weights are equal bit by bit, if the backend's own arithmetic
    is deterministic. A run that is resumed on another backend draws other random numbers; one whose
    layers have random generators is refused if that backend keeps them in another dtype.

    The data must be an endless stream whose batch i depends only on i, so that the stream can
    start at any batch: a tf.data.Dataset, a generator or a torch DataLoader (a PyDataset cannot
    leave an epoch early). `fit` needs `steps_per_epoch`. A tf.data.Dataset that is shuffled and
    repeated has another order each time it is iterated, and on JAX and torch `fit` of a new run
    iterates it once more: give each pass its own seed. The state of other callbacks (such as the
    patience of EarlyStopping) is not saved. Put this callback last. The settings of an optimizer
    are not compared; a learning rate without a schedule is a variable, and comes from the file.

    If several processes train one model, each of them has this callback and calls `restore`, and
    all must see the directory. The first one writes the files. What is split over the processes
    (by `keras.distribution` on JAX) is written by each process into its own file in the same
    directory. A process reads only what its devices need, on a mesh of any shape and with any
    number of processes. If one of them cannot read or write, all raise an error. On TensorFlow with
    `tf.distribute`, build and compile the model and call `restore` inside `strategy.scope()`:
    outside of it TensorFlow raises a RuntimeError. On its replicas the weights are as exact; the
    logs of the interrupted epoch may differ in the last bit.

    Args:
        directory: where the files are written, created if it does not exist. Other files in it
            stay.
        every: the number of batches between two files. There is also a file at the end of each
            epoch, and one where another callback stops the run within an epoch, which is then
            resumed there.
        keep: the number of files to keep; older ones are removed. If the weights or the
            optimizer hold NaN, no file is written or removed, and there is a warning.
        data: the source of the batches, such as a hash of the examples, the seed of their order
            and the batch size; anything that JSON can hold. A resumed run must have the same.
            Defaults to None, which is not compared.

    Raises:
        ValueError: an argument is of another kind; the newest file is damaged, or is that of
            another model, an optimizer with other variables, or other data; the processes have
            different files or data; `fit` does not start where the restored file ended; the
            directory has files and `restore` was not called.

    Example:
    >>> import keras, numpy as np, tempfile
    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))
    >>> model.compile("adam", "mse")
    >>> def batches(step):  # batch i is a function of i
    ...     while True:
    ...         yield np.full((2, 3), step, "float32"), np.ones((2, 1), "float32")
    ...         step += 1
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     for epochs in (1, 3):  # the second fit continues where the first ended
    ...         checkpoint = TrainingCheckpoint(directory, every=2)
    ...         step = checkpoint.restore(model, next(batches(0)))
    ...         history = model.fit(
    ...             batches(step), steps_per_epoch=5, initial_epoch=step // 5, epochs=epochs,
    ...             callbacks=[checkpoint], shuffle=False, verbose=0)
    >>> step, history.epoch
    (5, [0, 1, 2])
    """

    model: Any  # `fit` sets both
    params: Any

    def __init__(
        self, directory: str | os.PathLike, every: int = 1000, keep: int = 2, data: Any = None
    ) -> None:
        super().__init__()
        self.directory = to_path("directory", directory)
        self.every = check_count("every", every)
        self.keep = check_count("keep", keep)
        try:
            self.data = json.loads(json.dumps(data))  # as a file gives it back
        except (TypeError, ValueError) as error:
            raise ValueError(f"`data` must be what JSON can hold, got {data!r}") from error
        self._logs: list[dict] = []  # of the epochs that are over
        self._step = 0  # batches taken since the training began
        self._saved = 0  # the step of the newest file
        self._first = 0  # the batch of the epoch at which `fit` continues
        self._steps_per_epoch = 0  # until `fit` or a file says it
        self._metrics: list = []
        self._generators: dict | None = None  # to be set before the first batch
        self._restored = False

    def restore(self, model: keras.Model, batch: Nested, step: int | None = None) -> int:
        """Put a file's state into a compiled model; with `tf.distribute` in the strategy's scope.

        Args:
            model: built and compiled as the one that was saved.
            batch: one element of the data, as `fit` gets it; or a tf.data.Dataset or its
                `element_spec`, from which nothing is read. Metrics and losses make their variables
                when they first see data; the values are not used.
            step: which file, by the number of batches already taken; defaults to the newest. Files
                of later steps go when the next one is written.

        Returns:
            The number of batches already taken, 0 if the directory holds no file: start the data
            there, and give `fit` `initial_epoch=step // steps_per_epoch`.
        """
        if not isinstance(model, keras.Model) or not model.compiled:
            raise ValueError(f"`model` must be a keras.Model that is compiled, got {model!r}")
        if batch is None:
            raise ValueError("`batch` must be an element of the data, got None")
        state.shapes(batch)  # of unknown rank: refused now, not when a run is to be resumed
        files = self._files()
        with _together(model, "find"):
            if step is not None and step not in files:
                raise ValueError(
                    f"`step` must be that of a file in {self.directory}, one of "
                    f"{', '.join(map(str, files)) or 'none'}, got {step!r}"
                )
        step = max(files, default=0) if step is None else int(step)
        self._compare_processes(model, step)
        self._restored = True
        if files:
            with _together(model, "read"):
                with self._naming_older(files[step]):
                    saved = state_file.read(files[step])
                self._compare_data(files[step], saved.record.get("data"))
            state.build(model, batch)
            variables = state.variables_of(model)
            with _together(model, "read"):
                saved.compare(variables)
                needed = [backend.needed_parts(variable) for variable in variables]
                with self._naming_older(files[step]):
                    values = saved.values(needed)
            for variable, parts in zip(variables, values, strict=True):
                backend.assign_parts(variable, parts)
            self._step = self._saved = saved.record["step"]
            self._steps_per_epoch = saved.record["steps_per_epoch"]
            self._logs = saved.record["logs"]
            found = {id(v): parts for v, parts in zip(variables, values, strict=True)}
            self._metrics = [found[id(variable)] for variable in model.metrics_variables]
            self._generators = saved.generators
        return self._step

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Check that `fit` continues where the file ended."""
        steps, execution = self.params["steps"], self.model.steps_per_execution
        if steps is None or steps % execution or steps != (self._steps_per_epoch or steps):
            wanted = self._steps_per_epoch or f"a multiple of steps_per_execution={execution}"
            raise ValueError(f"`steps_per_epoch` of fit must be {wanted}, got {steps}")
        if not self._restored and self._files():
            raise ValueError(
                f"`directory` must hold no checkpoint unless restore is called, "
                f"got {self._files()[max(self._files())]}"
            )
        self._steps_per_epoch = int(steps)
        self._first = self._step - len(self._logs) * steps
        self.directory.mkdir(parents=True, exist_ok=True)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Give a resumed epoch the metrics of its first part, which `fit` has just reset."""
        if epoch != len(self._logs):
            raise ValueError(
                f"`initial_epoch` of fit must be {len(self._logs)} after {self._step} steps, "
                f"got {epoch}"
            )
        if self._first:
            for variable, parts in zip(self.model.metrics_variables, self._metrics, strict=True):
                backend.assign_parts(variable, parts)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Set the generators after all that `fit` draws before its first batch."""
        if self._generators:
            random.assign_global_states(self._generators)
        self._generators = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Save if it is time; end a resumed epoch where the interrupted one would have ended."""
        in_epoch = self._first + batch + 1
        self._step = len(self._logs) * self._steps_per_epoch + in_epoch
        if in_epoch < self._steps_per_epoch:
            # Now if another callback stops the run: the validation to come resets the metrics.
            if self.model.stop_training or self._step - self._saved >= self.every:
                self._save()
        elif self._first and not self.model.stop_training:
            self.model.stop_training = _END_OF_EPOCH

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save the state between two epochs; one that was cut short stays unfinished."""
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False
        self._first = 0
        self._logs.append(dict(logs or {}))
        if self._step == len(self._logs) * self._steps_per_epoch:
            self._save()
        else:
            self.model.stop_training = True  # also where the data ended
            self._restored = False  # only a file has the metrics of the first part

    def on_train_end(self, logs: dict | None = None) -> None:
        """Make the history that `fit` returns that of the whole run."""
        history = self.model.history
        history.epoch = list(range(len(self._logs)))
        history.history = {}
        for epoch_logs in self._logs:
            for name, value in epoch_logs.items():
                history.history.setdefault(name, []).append(value)
        del self._logs[self._step // self._steps_per_epoch :]  # an unfinished epoch

    def _compare_processes(self, model: keras.Model, step: int) -> None:
        steps = backend.from_all_processes(model, step)
        if len(set(steps)) > 1:
            raise ValueError(
                "`directory` must be one that all processes see, got files up to step "
                f"{', '.join(map(str, steps))} in {self.directory}"
            )
        digest = zlib.crc32(json.dumps(self.data, sort_keys=True).encode()) >> 1
        digests = backend.from_all_processes(model, digest)
        if len(set(digests)) > 1:
            other = [i for i, found in enumerate(digests) if found != digests[0]]
            raise ValueError(
                f"`data` must be the same in all processes, got {self.data!r} here, and another "
                f"than the first process has in {', '.join(map(str, other))}"
            )

    def _compare_data(self, path: pathlib.Path, found: Any) -> None:
        given = self.data
        if None not in (given, found) and given != found:
            if isinstance(given, dict) and isinstance(found, dict):
                same = {key for key in given.keys() & found.keys() if given[key] == found[key]}
                found, given = (
                    {key: value for key, value in side.items() if key not in same}
                    for side in (found, given)
                )
            raise ValueError(f"`data` must be what {path} was trained on, {found!r}, got {given!r}")

    def _save(self) -> None:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # within an epoch JAX keeps the state outside the variables
        record = {
            "step": self._step,
            "steps_per_epoch": self._steps_per_epoch,
            "logs": self._logs,
            "data": self.data,
        }
        variables = state.variables_of(self.model)
        # On TensorFlow they are put together from all processes, which must all ask for them.
        values = [backend.owned_parts(variable) for variable in variables]
        index, count = backend.file_number(self.model, variables)
        self._saved = self._step
        broken = state.has_nan(self.model, variables, values)
        if any(backend.from_all_processes(self.model, int(broken))):
            warnings.warn(
                f"the weights or the optimizer hold NaN after {self._step} steps: nothing is "
                f"saved, and {self.directory} keeps the older files",
                stacklevel=2,
            )
            return
        with _together(self.model, "write"):
            if index < count:
                state_file.write(
                    self.directory / f"step-{self._step:010d}.npz",
                    variables,
                    values,
                    random.global_states(),
                    record,
                    index,
                    count,
                    functools.partial(backend.from_all_processes, self.model),
                )
            if index == 0:
                kept = sorted(step for step in self._files() if step <= self._step)[-self.keep :]
                for step, path in self._written():
                    if step not in kept:
                        path.unlink()

    def _files(self) -> dict[int, pathlib.Path]:
        return {step: path for step, path in self._written() if path.suffix == ".npz"}

    def _written(self) -> list[tuple[int, pathlib.Path]]:
        """Our own files and their steps, each before its parts, which are nothing without it."""
        paths = sorted(path for path in self.directory.glob("step-*") if path.is_file())
        matches = [(_NAME.fullmatch(path.name), path) for path in paths]
        return [(int(match[1]), path) for match, path in matches if match]

    @contextlib.contextmanager
    def _naming_older(self, path: pathlib.Path) -> Iterator[None]:
        """The error of a damaged file names the newest intact one before it."""
        try:
            yield
        except ValueError as error:
            for step, older in reversed(self._files().items()):
                if older < path and state_file.is_intact(older):
                    hint = f"{older.name} before it is intact: `restore(..., step={step})`"
                    raise ValueError(f"{error}; {hint}") from error
            raise


@contextlib.contextmanager
def _together(model: keras.Model, what: str) -> Iterator[None]:
    """Where one process fails at a file, the others end, and do not wait for it."""
    try:
        yield
    except Exception:
        backend.from_all_processes(model, 1)
        raise
    failed = [i for i, found in enumerate(backend.from_all_processes(model, 0)) if found]
    if failed:
        raise ValueError(f"process {failed[0]} could not {what} the checkpoint: its error says why")


class _EndOfEpoch:
    """True for `fit`, which then leaves the epoch, yet not the True of a callback that is done."""


_END_OF_EPOCH = _EndOfEpoch()
