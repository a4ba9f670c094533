"""The one way: from a task and a budget through search and certificate to a result."""
