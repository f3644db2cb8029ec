"""The memory that `fit` predicts is what a process takes at most, within 5 %; with PyTorch, whose allocator varies, 7 %."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ordito import _core
from ordito.checkpoint.outline import outline
from ordito.fitting import Machine, fit, vocabulary_size

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")

READ = """
import sys, ordito
name, tokens = sys.argv[1], int(sys.argv[2])
model = ordito.load(name, backend=sys.argv[3])
prompt = [(7919 * i + 13) % model.spec.vocab_size for i in range(tokens - 2)]
model.tokenizer
if model.spec.generates:
    session = model.runtime.session()
    for ids in (prompt, [1], [2]):
        session.feed(ids)
else:
    model.hidden(prompt)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(("name", "context"), [("smollm2", 256), ("smollm2", 2048), ("gemma3-270m", 1024), ("minilm", 256)])
def test_the_peak_is_the_predicted_one(name, context, backend):
    known = outline(name)
    machine = Machine(cores=2, memory=10**12, bandwidth=1e10, flops=1e11, int16=_core.Kernels(None).int16)
    predicted = fit(
        known.spec,
        known.stored,
        file_bytes=known.file_bytes,
        vocabulary=vocabulary_size(known),
        context=context,
        machine=machine,
        backend_name=backend,
    )
    assert predicted.memory.total == pytest.approx(
        measured(name, context, backend), rel={"native": 0.05, "torch": 0.07}[backend]
    )


def measured(name, context, backend):
    """The most bytes that a process held at once."""
    command = [sys.executable, "-c", READ, name, str(context), backend]
    return 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
