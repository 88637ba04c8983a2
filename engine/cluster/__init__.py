"""Several engines, each on a GPU and in a process of its own, that share the scenarios of one run."""
