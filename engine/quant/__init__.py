"""8-bit linear layers in place of nn.Linear: which, with what error, and kept on disk."""
