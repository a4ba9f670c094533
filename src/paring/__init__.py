"""paring: give it a trained network, data and a budget; it returns the fastest network that this machine can run."""

__version__ = "0.1.0"
