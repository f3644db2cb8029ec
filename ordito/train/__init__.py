"""Training: one loop, small objectives, any spec.

import ordito

ordito.train.fit("sft", model="smollm2", data="chats.jsonl", output="my-model", lr=1e-4)
"""

from __future__ import annotations

from ordito.train.config import Config, config_from
from ordito.train.fit import Result, fit
from ordito.train.plan import planned

__all__ = ["Config", "Result", "config_from", "fit", "planned"]
