"""Questions asked of a ladder, each one a module with `run` and `figure`."""
