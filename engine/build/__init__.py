"""From settings and folders to a run that is checked, loaded and wired."""
