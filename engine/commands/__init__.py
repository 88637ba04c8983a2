"""A file for each command or few that belong together; it registers them on the app when it is imported."""
