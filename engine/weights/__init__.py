"""Weight files as other tools write them: what their headers state, and their tensors as numbers."""
