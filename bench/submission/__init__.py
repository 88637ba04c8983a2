"""From a model's clips to a submission to the benchmark: clips of the exact form, the card, the package."""
