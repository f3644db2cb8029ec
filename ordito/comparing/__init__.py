"""Two or more specs -> what they share and where they differ."""

from ordito.comparing.comparison import Comparison, Row, compare
from ordito.comparing.facts import facts

__all__ = ["Comparison", "Row", "compare", "facts"]
