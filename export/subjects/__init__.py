"""One file per exportable module; each has `prepare(...) -> Subject`, and its name is the subject's name."""
