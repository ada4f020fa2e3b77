"""Threads beside other work: tokens/s of a LoRA step on the CPU, for each way to wait.

``python -m bench.threads [BUSY]``: the model is the embedded one; BUSY other processes (by default
none) compute meanwhile. Each way has a process, since OpenMP reads its settings once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "default, 2 threads": (2, {}),
    "OMP_WAIT_POLICY=PASSIVE, 2 threads": (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "GOMP_SPINCOUNT=1000, 2 threads": (2, {"GOMP_SPINCOUNT": "1000"}),
    "default, 1 thread": (1, {}),
}
SECONDS, TURNS = 4, 2
MODEL = "resources/models/smollm2-135m"


def step() -> None:
    """The program of one way: a number of seconds in, tokens/s out."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(sys.argv[2]))
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    targets, layers = ["q_proj", "v_proj", "down_proj"], list(range(20, 30))
    model = get_peft_model(
        base, LoraConfig(r=8, target_modules=targets, layers_to_transform=layers)
    )
    ids = torch.randint(5, 40000, (6, 48))
    print("ready", flush=True)
    for line in sys.stdin:
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < float(line):
            model(ids, labels=ids).loss.backward()
            count += ids.numel()
        print(round(count / (time.perf_counter() - start)), flush=True)


def main() -> None:
    """Measure all ways in turn and print their tokens/s."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "bench.threads", "step", str(threads)],
            env=clean | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, (threads, settings) in WAYS.items()
    }
    for process in running.values():
        assert process.stdout
        process.stdout.readline()
    busy = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for turn in range(TURNS):
            for name, process in running.items():
                assert process.stdin
                assert process.stdout
                process.stdin.write(f"{SECONDS}\n")
                process.stdin.flush()
                print(f"{turn}  {name}: {process.stdout.readline().strip()} tokens/s", flush=True)
    finally:
        for process in [*running.values(), *spinning]:
            process.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        step()
    else:
        main()
