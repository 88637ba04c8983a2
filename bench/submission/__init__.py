"""From a model's clips to a submission: clips of the exact form, the card, the package."""
