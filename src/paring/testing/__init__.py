"""Contract tests that any technique or backend must pass."""
