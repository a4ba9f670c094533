"""The techniques: one transformation a file."""
