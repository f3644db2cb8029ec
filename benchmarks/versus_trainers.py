"""Training beside TRL and LitGPT: SmolLM2-135M, steps of 4 texts of 512 tokens, full fine-tuning and LoRA, in turn.

    python benchmarks/versus_trainers.py --peer PYTHON [--precision float32|bfloat16] [--what full,lora] [--json]

PYTHON has `torch`, `trl`, `peft` and `litgpt`. Each side is a process that makes one optimizer step on request, with two
threads, fused AdamW, gradients clipped to 1 and the same random tokens; bfloat16 means matrix products in bfloat16 (autocast,
`bf16-mixed`), weights in fp32. All sides run first with default settings, then with settings that need less memory: `recompute`
for ours, accumulation over single rows for the others, and activation checkpointing for TRL. Rate and memory are reported for
each. The limit is the rate at which matrix products in that precision run here.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from peers import Figure, arguments, report, smaller

import ordito
from ordito.checkpoint import store
from ordito.train.mfu import measured_peak, training_flops

ROWS, LENGTH, STEPS, THREADS = 4, 512, 40, 2
MIB = 1 << 20

COMMON = """
import json, os, sys, time
model, precision, what, variant = sys.argv[1:5]
threads, rows, length, steps = (int(n) for n in sys.argv[5:9])
out, sys.stdout = sys.stdout, sys.stderr
def wait():
    if not sys.stdin.readline():
        os._exit(0)
def told(seconds):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    print(json.dumps({"seconds": seconds, "peak": 1024 * int(lines["VmHWM"].split()[0])}), file=out, flush=True)
import torch
torch.set_num_threads(threads)
half = precision == "bfloat16"
tokens = torch.randint(100, 40000, (steps * rows, length), generator=torch.Generator().manual_seed(1))
"""
OURS = """
import tempfile
from pathlib import Path
from ordito.train import config_from
import ordito.train.setup as setup
from ordito.train.listener import Quiet
from ordito.train.examples import Example, Text
class Data:
    utilisation = 1.0
    def __getitem__(self, i): return Example((Text.of(tokens[i].tolist()),))
    def rows(self, step): return [[step * rows + i] for i in range(rows)]
    def steps(self, epochs): return steps
    def ordered(self, *rest): return self
values = {"objective": "pretrain", "model": model, "data": "random", "output": tempfile.mkdtemp(), "batch_size": rows,
          "length": length, "precision": precision, "threads": threads, "steps": steps, "lr": 1e-5, "warmup": 0}
if what == "lora":
    values |= {"adapter": "lora", "lora": {"rank": 16, "alpha": 32}}
setup.examples = lambda *rest, **more: Data()
trainer, _ = setup.set_up(config_from(values, sys.argv[9:]), Quiet())
while True:
    wait()
    told(trainer.step()["seconds"])
"""
TRL = """
import warnings; warnings.filterwarnings("ignore")
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer
from peft import LoraConfig
from datasets import Dataset
net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
class Steps(TrainerCallback):
    def on_step_begin(self, *rest, **more):
        wait(); self.start = time.perf_counter()
    def on_step_end(self, *rest, **more):
        told(time.perf_counter() - self.start)
small = variant == "small"
settings = SFTConfig(output_dir="/tmp/trl-out", per_device_train_batch_size=1 if small else rows,
    gradient_accumulation_steps=rows if small else 1, max_steps=steps, report_to=[], save_strategy="no", use_cpu=True,
    logging_strategy="no", learning_rate=1e-5, bf16=half, gradient_checkpointing=small, dataloader_pin_memory=False,
    max_length=length, max_grad_norm=1.0, disable_tqdm=True)
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0)
SFTTrainer(model=net, train_dataset=Dataset.from_dict({"input_ids": tokens.tolist()}), args=settings,
           peft_config=lora if what == "lora" else None, callbacks=[Steps()]).train()
"""
LITGPT = """
import warnings; warnings.filterwarnings("ignore")
import lightning as L
from litgpt.utils import chunked_cross_entropy
config = dict(padded_vocab_size=49152)
if what == "lora":
    from litgpt.lora import GPT, Config, mark_only_lora_as_trainable
    config |= dict(lora_r=16, lora_alpha=32, lora_dropout=0.0, lora_query=True, lora_key=True, lora_value=True,
                   lora_projection=True, lora_mlp=True, lora_head=False)
else:
    from litgpt.model import GPT, Config
fabric = L.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if half else "32-true")
net = GPT(Config.from_name("SmolLM2-135M", **config))
net.lm_head.weight = net.transformer.wte.weight
if what == "lora":
    mark_only_lora_as_trainable(net)
net = fabric.setup_module(net)
moved = [p for p in net.parameters() if p.requires_grad]
optimizer = fabric.setup_optimizers(torch.optim.AdamW(moved, lr=1e-5, fused=True))
micro = 1 if variant == "small" else rows
for step in range(steps):
    wait(); start = time.perf_counter()
    for part in tokens[step * rows : (step + 1) * rows].split(micro):
        # As in LitGPT's own loops: the head in chunks of 128 tokens with LoRA, the loss over all logits otherwise.
        if what == "lora":
            logits = net(part, lm_head_chunk_size=128)
            logits[-1] = logits[-1][..., :-1, :]
            loss = chunked_cross_entropy(logits, part[..., 1:])
        else:
            loss = chunked_cross_entropy(net(part)[..., :-1, :], part[..., 1:], chunk_size=0)
        fabric.backward(loss * micro / rows)
    torch.nn.utils.clip_grad_norm_(moved, 1.0)
    optimizer.step(); optimizer.zero_grad()
    told(time.perf_counter() - start)
"""


class Side:
    """A process that makes one training step on request."""

    def __init__(self, python: str, code: str, *options: str) -> None:
        self.command = [python, "-c", COMMON + code, *options]
        pipe, self.said = subprocess.PIPE, tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=self.said, text=True)
        self.rates: list[float] = []
        self.peak = 0

    def step(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            line = next(line for line in self.process.stdout if line.startswith('{"seconds"'))
        except (OSError, StopIteration):
            raise SystemExit(f"a process ended: {Path(self.said.name).read_text()[-2000:]}") from None
        found = json.loads(line)
        self.rates.append(ROWS * LENGTH / found["seconds"])
        self.peak = found["peak"]

    @property
    def rate(self) -> float:
        """Tokens per second: the median without the first two steps, which allocate memory and compile code."""
        return statistics.median(self.rates[2:])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def figures(python: str, folder: str, precision: str, what: str, times: int, sets: list[str]) -> Iterator[Figure]:
    numbers = [str(n) for n in (THREADS, ROWS, LENGTH, STEPS)]

    def measured(variant: str, *more: str) -> dict[str, Side]:
        """All sides in turn; those of one variant fit into 24 GB together."""
        codes = {"ours": (sys.executable, OURS), "TRL": (python, TRL), "LitGPT": (python, LITGPT)}
        sides = {
            name: Side(interpreter, code, folder, precision, what, variant, *numbers, *(more if name == "ours" else ()))
            for name, (interpreter, code) in codes.items()
        }
        try:
            for _ in range(times + 2):
                for one in sides.values():
                    one.step()
        finally:
            for one in sides.values():
                one.end()
        return sides

    fast, small = measured("", *sets), measured("small", *sets, "recompute=true")
    spec = ordito.outline(folder).spec
    flops = training_flops(spec, ROWS * LENGTH, LENGTH, ROWS * (LENGTH - 1), what == "lora")
    limit = measured_peak(getattr(torch, precision), torch.device("cpu")) / flops * ROWS * LENGTH
    for variant, sides in (("", fast), (", less memory", small)):
        for name in ("TRL", "LitGPT"):
            ours, peer = sides["ours"], sides[name]
            yield Figure(
                f"{what}, {precision}{variant}, {name}", ours.rate, peer.rate, ours.rate / peer.rate, limit, "tokens/s"
            )
            yield smaller(f"{what}, {precision}{variant}, {name}: memory", ours.peak / MIB, peer.peak / MIB, "MiB")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--peer", required=True, help="an interpreter with torch, trl, peft and litgpt")
    parser.add_argument("--precision", default="float32,bfloat16")
    parser.add_argument("--what", default="full,lora")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="a setting of ours, key=value")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = str(Path(work) / "smollm2")
        ordito.save(ordito.load(store.locate("smollm2").path, backend="native"), folder)
        for precision in given.precision.split(","):
            for what in given.what.split(","):
                report(figures(given.peer, folder, precision, what, given.times, given.sets), given.json)


if __name__ == "__main__":
    main()
