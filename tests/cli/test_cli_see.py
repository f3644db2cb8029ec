"""`ordito explain`, `compare`, `fit` and `bench`: what they print, and what they say to what is wrong."""

from __future__ import annotations

import csv
import io
import json

import pytest
from test_cli import cli  # noqa: F401 - a fixture

import ordito
from ordito import catalogue
from ordito.families import spec_from_config
