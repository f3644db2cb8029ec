"""Will it run here, and how fast: memory and rates, predicted from a spec and a machine."""

from ordito.fitting.backends import Backend, Memory
from ordito.fitting.machine import Machine, this_machine
from ordito.fitting.prediction import Choice, Fit, Rate, fit
from ordito.fitting.quantizations import MIXES, held_as

__all__ = ["MIXES", "Backend", "Choice", "Fit", "Machine", "Memory", "Rate", "fit", "held_as", "this_machine"]
