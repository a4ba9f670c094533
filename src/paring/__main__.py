"""`python -m paring`."""

from paring.cli import main

main()
