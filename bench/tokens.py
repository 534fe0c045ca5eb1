"""Tokens per second: our loss head against TRL's, packed rows against padded ones, and both against the machine.

Every ratio is of two trainers in one process on the same rows, in alternating windows; a window is one epoch of a
trainer of its own, from the beginning of its first step to the end of its last. Padding is not counted.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WINDOWS, STEPS, SMALL = 5, 3, {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 8}
HEADED = ("loss", "entropy", "mean_token_accuracy")
Alone = Callable[[Callable[[], Any]], Any]


@dataclass
class Window:
    """What one trainer did in an epoch: tokens per second, and what it logged at each step."""

    rate: float = 0.0
    logged: list[dict[str, float]] = field(default_factory=list)


def measure() -> None:
    """Print every figure; about ten minutes on two cores.

    All of it in one thread beside the main one, as a session is: a thread each would keep the memory of the last.
    """
    with ThreadPoolExecutor(1) as pool:
        _measure(lambda run: pool.submit(run).result())


def _measure(alone: Alone) -> None:
    from jupyter_ft.models import POOL

    dtypes = _dtypes()
    for dtype in dtypes:
        base = POOL.get("demo", revision=None, dtype=dtype, report=lambda *_: None)
        heads(alone, f"SmolLM2 {dtype}, a quarter trained", base, dtype=dtype, share=0.25, aim="aim 1.8")
        if dtype == dtypes[0]:
            heads(alone, f"SmolLM2 {dtype}, all trained", base, dtype=dtype, share=1.0, aim="aim 1.5")
            packing(alone, base, dtype)
    small = random_model(base.tokenizer, **SMALL)
    heads(alone, "8 layers of 576, float32, a quarter trained", small, dtype="float32", share=0.25, aim="aim 2.5")
    heads(alone, "8 layers of 576, float32, all trained", small, dtype="float32", share=1.0, aim="aim 1.5")
    utilisation(alone, base.tokenizer)


def _dtypes() -> tuple[str, ...]:
    """What this machine computes in hardware, the one that `dtype: auto` takes first."""
    import torch

    from jupyter_ft.models import pick_device, pick_dtype

    return ("bfloat16", "float32") if pick_dtype("auto", pick_device()) is torch.bfloat16 else ("float32",)


def random_model(tokenizer: Any, dtype: str = "float32", **sizes: int) -> Any:
    """A Llama with random weights and the vocabulary of SmolLM2."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from jupyter_ft.models import Base

    heads = {"num_attention_heads": sizes["hidden_size"] // 64, "num_key_value_heads": sizes["hidden_size"] // 192}
    config = LlamaConfig(vocab_size=49152, tie_word_embeddings=True, **heads, **sizes)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(False).eval()
    return Base("", "", model, tokenizer)


def rows(lengths: list[int], share: float) -> list[dict[str, list[int]]]:
    """Rows of random tokens; the last `share` of each is trained."""
    import torch

    draw = torch.Generator().manual_seed(0)
    made = []
    for length in lengths:
        ids = torch.randint(100, 49000, (length,), generator=draw).tolist()
        asked = length - round(length * share)
        made.append({"input_ids": ids, "labels": [-100] * asked + ids[asked:]})
    return made


def window(base: Any, data: list[Any], **asked: Any) -> Window:
    """Train a fresh adapter on `data` and time it."""
    from transformers import TrainerCallback

    from jupyter_ft.control.lease import seeded_streams
    from jupyter_ft.methods import sft
    from jupyter_ft.methods.packing import pack
    from jupyter_ft.recipe import parse_recipe

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    recipe = parse_recipe({"batch_size": 8, **asked})
    tokens = sum(len(row["input_ids"]) for row in data)
    data = pack(data, recipe.max_length)[0] if recipe.packing else data
    with seeded_streams(recipe.seed), tempfile.TemporaryDirectory() as folder:
        trainer = sft.build(base.shell(), base.new_tokenizer(), recipe, data, Path(folder))
        assert ("loss_head" in vars(trainer)) is (recipe.loss_head == "auto")
        trainer.add_callback(Clock())
        trainer.train()
    logged = [{k: v for k, v in entry.items() if k in HEADED} for entry in trainer.state.log_history[:-1]]
    return Window(tokens / (times[-1] - times[0]), logged)


def alternate(alone: Alone, sides: dict[str, Callable[[], Window]], windows: int = WINDOWS) -> dict[str, list[Window]]:
    """`windows` windows of each side, in turn, after one to warm up."""
    gc.collect()
    alone(next(iter(sides.values())))
    found: dict[str, list[Window]] = {name: [] for name in sides}
    for _ in range(windows):
        for name, side in sides.items():
            found[name].append(alone(side))
            gc.collect()  # a trainer is full of cycles
    return found


def told(what: str, ours: list[float], theirs: list[float], unit: str, more: str) -> None:
    """One line: both medians, their ratio, and the spread of the windows."""
    a, b = statistics.median(ours), statistics.median(theirs)
    spread = f"windows {min(ours):.1f}-{max(ours):.1f} against {min(theirs):.1f}-{max(theirs):.1f}"
    print(f"{what}: {a:.1f} against {b:.1f} {unit} = {a / b:.2f} ({more}); {spread}", flush=True)


# --- the loss head ---


def heads(alone: Alone, what: str, base: Any, *, dtype: str, share: float, aim: str) -> None:
    """Our head against TRL's: tokens per second, and how far apart what they log is."""
    data = rows([40 + number * 7 % 21 for number in range(8 * STEPS)], share)
    asked = {"dtype": dtype}
    found = alternate(
        alone,
        {
            "ours": lambda: window(base, data, loss_head="auto", **asked),
            "TRL's": lambda: window(base, data, loss_head="trl", **asked),
        },
    )
    ours, theirs = found["ours"], found["TRL's"]
    apart = {
        name: max(abs(a[name] - b[name]) for a, b in zip(ours[0].logged, theirs[0].logged, strict=True))
        for name in HEADED
    }
    told(f"loss head, {what}", [w.rate for w in ours], [w.rate for w in theirs], "tokens/s of TRL's", aim)
    print("   logged by both, furthest apart:", ", ".join(f"{name} {far:.1e}" for name, far in apart.items()))


# --- packing ---


def packing(alone: Alone, base: Any, dtype: str) -> None:
    """Packed against padded on lengths with a long tail (exponential, mean 68): tokens that are no padding a second."""
    import torch

    draw = torch.empty(48).exponential_(1 / 68, generator=torch.Generator().manual_seed(1))
    data = rows(draw.long().clamp(8, 256).tolist(), 0.25)
    by_length = {"trainer": {"train_sampling_strategy": "group_by_length"}}
    sides: dict[str, dict[str, Any]] = {
        "packed": {"packing": True, "batch_size": 2},  # about as many tokens a step
        "padded": {},
        "by length": by_length,
        "padding-free": {"trainer": {"padding_free": True}},
    }
    made = {
        name: lambda asked=asked: window(base, data, dtype=dtype, **asked)  # type: ignore[misc]
        for name, asked in sides.items()
    }
    found = {name: [each.rate for each in windows] for name, windows in alternate(alone, made, 3).items()}
    for name in ("packed", "by length", "padding-free"):
        aim = "aim 1.6" if name == "packed" else "no aim"
        told(f"skewed lengths, {name} against padded", found[name], found["padded"], "tokens/s", aim)


# --- the machine ---


def utilisation(alone: Alone, tokenizer: Any) -> None:
    """Training FLOPs against the machine's largest matrix product of the same model, in one run."""
    import torch

    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6}
    data = rows([256] * (4 * STEPS), 1.0)
    print("4 FLOPs per parameter of the base's linear layers and token, head included; attention, adapter left out")
    for dtype in _dtypes():
        base = random_model(tokenizer, dtype, **sizes)
        counted = sum(p.numel() for n, p in base.model.named_parameters() if p.ndim == 2)  # tied: the head, once
        product = _product(1024, sizes["hidden_size"], sizes["intermediate_size"], getattr(torch, dtype))
        alone(product)
        speeds, ceilings = [], []
        for _ in range(3):
            found = alone(lambda: window(base, data, dtype=dtype, batch_size=4))  # noqa: B023
            speeds.append(4 * counted * found.rate / 1e9)
            ceilings.append(alone(product))
        told(f"utilisation, 6 layers of 768, {dtype}", speeds, ceilings, "GFLOP/s of a product", "aim 0.6")


def _product(tokens: int, hidden: int, inner: int, dtype: Any) -> Callable[[], float]:
    import torch

    def run() -> float:
        a, b = torch.randn(tokens, hidden).to(dtype), torch.randn(inner, hidden).to(dtype)
        times = []
        for _ in range(30):
            began = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - began)
        return 2 * tokens * hidden * inner / statistics.median(times) / 1e9

    return run
