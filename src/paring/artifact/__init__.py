"""A network on disk, with all that is needed to run, verify and serve it."""
