"""AnyFlow-FAR: frames in chunks, one after the other, each behind keys and values of all before it."""
