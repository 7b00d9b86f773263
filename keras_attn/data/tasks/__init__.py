"""Tasks, one file each: strings to the inputs of its model, and the outputs to answers."""
