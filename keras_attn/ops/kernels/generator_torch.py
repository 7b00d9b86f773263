"""The state of torch's own random generators, which Keras' Dropout without a seed draws from."""

import numpy as np
import torch


def states() -> dict[str, np.ndarray]:
    """The state of each device's generator."""
    found = {"torch_cpu": torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            found[f"torch_cuda_{index}"] = state.numpy()
    return found


def assign(states: dict[str, np.ndarray]) -> None:
    """Set the generators; a state of a device that is not here has no effect."""
    torch.set_rng_state(torch.from_numpy(states["torch_cpu"]))
    for index in range(torch.cuda.device_count()):
        if f"torch_cuda_{index}" in states:
            torch.cuda.set_rng_state(torch.from_numpy(states[f"torch_cuda_{index}"]), index)
