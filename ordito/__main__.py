"""`python -m ordito`."""

from ordito.cli import program

program()
