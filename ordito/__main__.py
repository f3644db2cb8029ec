"""`python -m ordito`."""

from ordito.cli import main

main()
