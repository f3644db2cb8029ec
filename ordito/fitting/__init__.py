"""Will it run here, and how fast: memory and rates, predicted from a spec and a machine."""

from ordito.checkpoint.mixes import MIXES
from ordito.checkpoint.outline import held_as
from ordito.fitting.backends import Backend
from ordito.fitting.machine import Machine, this_machine
from ordito.fitting.memory import Memory
from ordito.fitting.prediction import Choice, Fit, Rate, fit
from ordito.fitting.vocabularies import VocabularySize, vocabulary_size

__all__ = [
    "MIXES",
    "Backend",
    "Choice",
    "Fit",
    "Machine",
    "Memory",
    "Rate",
    "VocabularySize",
    "fit",
    "held_as",
    "this_machine",
    "vocabulary_size",
]
