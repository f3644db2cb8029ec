"""Will it run here, and how fast: memory and rates, predicted from a spec and a machine."""

from ordito.checkpoint.mixes import MIXES
from ordito.fitting.backends import Backend, Memory
from ordito.fitting.machine import Machine, this_machine
from ordito.fitting.prediction import Choice, Fit, Rate, fit
from ordito.fitting.quantizations import held_as

__all__ = ["MIXES", "Backend", "Choice", "Fit", "Machine", "Memory", "Rate", "fit", "held_as", "this_machine"]
