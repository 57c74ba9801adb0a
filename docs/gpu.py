"""Writes gpu.md: compiles the kernels for CUDA ahead of time and reads what the code of each takes. Needs no GPU.

The kernels are compiled for the arguments that a call would launch them with; its tensors have no memory.
"""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Kernels that are interpreted cannot be compiled; Triton asks when it is imported.
os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lightning_xent.kernels import cuda, triton_code

PAGE = Path(__file__).with_suffix(".md")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CARDS = {80: "A100", 90: "H100, H200", 100: "B200"}
TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.uint8: "u8",
}
BEGIN, END = "<!-- Written by `python -m docs.gpu`. -->", "<!-- End. -->"


class Launch(NamedTuple):
    """A kernel and what it would be launched with."""

    kernel: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Usage(NamedTuple):
    """What the code of a kernel takes on one card; loads and stores are those of the widest kind, in bytes."""

    registers: int
    shared: int
    spills: int
    load: int
    store: int
    looped: int
    """Loads inside the loops over a row."""
    exchanges: int
    """Barriers and shuffles between threads inside these loops."""


def launches(call: Callable[[], Any]) -> list[Launch]:
    """The launches of a call."""
    found: list[Launch] = []
    launch = cuda._launch
    cuda._launch = lambda name, grid, device, *arguments, **options: found.append(Launch(name, arguments, options))
    try:
        call()
    finally:
        cuda._launch = launch
    return found


def of_label(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *wanted: str,
    axis: int = -1,
    softcap: float | None = None,
    weights: bool = False,
) -> list[Launch]:
    """Forward and backward for class indices with ignored rows."""
    logits = torch.empty(shape, dtype=dtype, device="meta").movedim(axis, -1)
    label = torch.empty(logits.shape[:-1], dtype=torch.long, device="meta")
    counts = torch.empty(logits.shape[:-1], dtype=torch.bool, device="meta")
    weight = torch.empty(shape[axis], dtype=torch.float32, device="meta").to(cuda.blocks.compute_dtype(logits))
    given = logits, label, counts, weight if weights else None, 1.0, softcap
    flags = [name in wanted for name in ("others", "log_partition", "entropy")]

    def call() -> None:
        *outputs, statistics = cuda.launch_label_forward(*given, *flags)
        cuda.launch_label_backward(outputs, *given, *flags, outputs[0], statistics)

    return launches(call)


def of_distribution(shape: tuple[int, ...], dtype: torch.dtype, axis: int = -1) -> list[Launch]:
    """Forward and backward for distributions."""
    logits = torch.empty(shape, dtype=dtype, device="meta").movedim(axis, -1)
    masses = torch.empty(shape, dtype=torch.float32, device="meta").movedim(axis, -1)

    def call() -> None:
        losses, sums = cuda.launch_distribution_forward(logits, masses, None, 1.0)
        cuda.launch_distribution_backward(losses, logits, masses, None, 1.0, sums)

    return launches(call)


def variants() -> dict[str, list[Launch]]:
    """The launches of each variant, by name."""
    half, single, double = torch.bfloat16, torch.float32, torch.float64
    words, images, pictures = (8192, 32000), (65536, 1000), (8, 19, 512, 1024)
    every = ("others", "log_partition", "entropy")
    return {
        "8192 x 32000 bf16": of_label(words, half),
        "8192 x 32000 f32": of_label(words, single),
        "8192 x 50257 bf16": of_label((8192, 50257), half),
        "64 x 1000000 f32, rows shared": of_label((64, 1000000), single),
        "8192 x 32000 bf16, smoothing": of_label(words, half, "others"),
        "8192 x 32000 bf16, smoothing, weights": of_label(words, half, "others", weights=True),
        "8192 x 32000 bf16, softcap, z-loss": of_label(words, half, "log_partition", softcap=30.0),
        "8192 x 32000 bf16, all options": of_label(words, half, *every, softcap=30.0, weights=True),
        "8192 x 32000 f64, all options": of_label(words, double, *every, softcap=30.0, weights=True),
        "65536 x 1000 bf16": of_label(images, half),
        "65536 x 1000 f32": of_label(images, single),
        "8 x 19 x 512 x 1024 bf16": of_label(pictures, half, axis=1),
        "8 x 19 x 512 x 1024 f32": of_label(pictures, single, axis=1),
        "8 x 19 x 512 x 1024 bf16, all options": of_label(pictures, half, *every, axis=1, softcap=30.0, weights=True),
        "8192 x 32000 bf16, distribution": of_distribution(words, half),
        "8 x 19 x 512 x 1024 f32, distribution": of_distribution(pictures, single, axis=1),
    }


def source(launch: Launch) -> ASTSource:
    """What Triton compiles: it knows that pointers are multiples of 16, as torch's are, and no number."""
    kernel = getattr(triton_code, launch.kernel)
    values = {**dict(zip(kernel.arg_names, launch.arguments, strict=False)), **launch.options}
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, Tensor):
            signature[name] = f"*{TYPES[value.dtype]}"
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif name.islower() and isinstance(value, int):
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
        else:
            signature[name] = "constexpr"
            constants[(place,)] = value
    return ASTSource(kernel, signature, constexprs=constants, attrs=attributes)


def compiled(launch: Launch, card: int) -> Usage:
    """Compile a launch for a card and read its code."""
    options = {"num_warps": launch.options["num_warps"], "enable_fp_fusion": True}
    binary = triton.compile(source(launch), target=GPUTarget("cuda", card, 32), options=options).asm["cubin"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        usage = read(TOOLS / "cuobjdump", "-res-usage", path)
        code = read(TOOLS / "nvdisasm", path)
    registers, shared = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "SHARED"))  # type: ignore[index]
    operations = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code, re.MULTILINE)
    inside = [operation for loop in loops(code) for operation in loop]
    return Usage(
        registers,
        shared,
        spills=sum(operation.startswith(("STL", "LDL")) for operation in operations),
        load=max(map(width, (operation for operation in operations if operation.startswith("LDG")))),
        store=max(map(width, (operation for operation in operations if operation.startswith("STG")))),
        looped=sum(operation.startswith("LDG") for operation in inside),
        exchanges=sum(operation.startswith(("BAR", "SHFL")) for operation in inside),
    )


def loops(code: str) -> Iterator[list[str]]:
    """The operations of each loop: from a label to a branch back to it."""
    lines = re.findall(r"^\s*(?:(\.L\w+):|/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*))", code, re.MULTILINE)
    labels = {label: place for place, (label, _, _) in enumerate(lines) if label}
    for place, (_, operation, rest) in enumerate(lines):
        target = re.search(r"`\((\.L\w+)\)", rest)
        if operation.startswith("BRA") and target and labels.get(target[1], place) < place:
            yield [operation for _, operation, _ in lines[labels[target[1]] : place] if operation]


def width(operation: str) -> int:
    """The bytes that a load or a store of each thread moves."""
    kinds = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((kinds[part] for part in operation.split(".") if part in kinds), 4)


def read(*command: Any) -> str:
    """What a program prints."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def measured() -> dict[str, dict[int, Usage]]:
    """The usage of each kernel of each variant, by card."""
    return {
        f"{variant}: {launch.kernel.split('_')[-1]}": {card: compiled(launch, card) for card in CARDS}
        for variant, of_variant in variants().items()
        for launch in of_variant
    }


def table(usages: dict[str, dict[int, Usage]]) -> str:
    """The rows of the page."""
    cards = ", ".join(f"sm_{card} ({name})" for card, name in CARDS.items())
    lines = [
        f"Registers of a thread on {cards}. Bytes of shared memory of a program, loads and stores",
        "of spilled registers, and the bytes of the widest load and store are those of sm_90. Compiled by Triton "
        f"{triton.__version__}.",
        "",
        "| kernel | registers | shared | spilled | load, store |",
        "|---|---|---|---|---|",
    ]
    for name, by_card in usages.items():
        registers = " / ".join(str(usage.registers) for usage in by_card.values())
        usage = by_card[90]
        lines.append(f"| {name} | {registers} | {usage.shared} | {usage.spills} | {usage.load}, {usage.store} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table of the page, show what would change, or print the figures."""
    parser = argparse.ArgumentParser(prog="python -m docs.gpu", description="Write the figures of docs/gpu.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page would change")
    parser.add_argument("--json", action="store_true", help="write nothing; print the figures and the table")
    options = parser.parse_args(arguments)
    usages = measured()
    old = PAGE.read_text(encoding="utf-8")
    head, _, rest = old.partition(BEGIN)
    new = f"{head}{BEGIN}\n\n{table(usages)}\n\n{END}{rest.partition(END)[2]}"
    if options.json:
        figures = {name: {card: usage._asdict() for card, usage in by.items()} for name, by in usages.items()}
        print(json.dumps({"usage": figures, "is_same": old == new}))
    elif options.check:
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), PAGE.name, "docs.gpu", n=0, lineterm="")
        sys.stdout.writelines(f"{line}\n" for line in lines)
    else:
        PAGE.write_text(new, encoding="utf-8", newline="\n")
    return int(options.check and old != new)


if __name__ == "__main__":
    sys.exit(main())
