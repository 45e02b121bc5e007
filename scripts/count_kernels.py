#!/usr/bin/env python3
"""Turns the counters that a PTX simulator writes for a run into one table (Markdown): for each CUDA kernel its launches,
how well its accesses coalesce, bank conflicts, bytes, tensor-core work, and an estimate of its share of the time.

    GPUSIM_STATS=step.json $OMNI_CUDA_LAUNCHER \\
        build/release/bin/train_step --device cuda --dtype bf16 --warm-up 0 --steps 1
    python3 scripts/count_kernels.py step.json

The estimate is a roofline (the largest of bytes / bandwidth, FLOPs / rate, shared memory and issue cycles, plus the
launch), not a measurement.
"""

import argparse
import json
import re
import sys
from pathlib import Path


def short_name(kernel: str) -> str:
    """Without namespaces and arguments: swiglu_kernel<float, 4>."""
    name = re.sub(r"^void ", "", kernel).replace("(anonymous namespace)::", "").replace("omni::", "")
    depth = 0
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            name = name[:at]
            break
    return name if len(name) <= 60 else name[:57] + "..."


def ratio(part: float, whole: float) -> str:
    return f"{part / whole:.2f}" if whole else "-"


def kernel_row(kernel: dict) -> dict:
    sectors = kernel["global_load_sectors"] + kernel["global_store_sectors"]
    ideal = kernel["global_load_sectors_ideal"] + kernel["global_store_sectors_ideal"]
    conflicts = kernel["shared_load_conflict_cycles"] + kernel["shared_store_conflict_cycles"]
    return {
        "name": short_name(kernel["kernel"]),
        "launches": kernel["launches"],
        "coalescing": ratio(ideal, sectors),
        "conflicts": ratio(conflicts, kernel["shared_cycles"]),
        "mb": (kernel["unique_read_bytes"] + kernel["unique_write_bytes"]) / 1e6,
        "gflop": (kernel["tensor_flops"] + kernel["fp32_flops"]) / 1e9,
        "tensor": ratio(kernel["tensor_flops"], kernel["tensor_flops"] + kernel["fp32_flops"]),
        "us": kernel["estimate"]["total_us"],
    }


def library_row(call: dict) -> dict:
    """Calls of cuBLAS or NCCL, at the least that their operands need."""
    return {
        "name": call["name"],
        "launches": call["calls"],
        "coalescing": "-",
        "conflicts": "-",
        "mb": call["min_bytes"] / 1e6,
        "gflop": call["flops"] / 1e9,
        "tensor": "-",
        "us": call["estimate_us"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counters", type=Path, help="the simulator's JSON")
    options = parser.parse_args()
    try:
        record = json.loads(options.counters.read_text())
        rows = [kernel_row(kernel) for kernel in record["kernels"]]
        rows += [library_row(call) for call in record["library_calls"]]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{options.counters}: expected the counters of a run ({error!r})")
    total = sum(row["us"] for row in rows)
    print(
        f"{sum(row['launches'] for row in rows)} launches, about {total:.0f} us on {record['device']} "
        f"(an estimate, not a measurement), {record['findings_total']} findings.\n"
    )
    print("| kernel | launches | coalescing | conflict cycles | unique MB | GFLOP | on tensor cores | us | share |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: -row["us"]):
        print(
            f"| {row['name']} | {row['launches']} | {row['coalescing']} | {row['conflicts']} | {row['mb']:.1f} "
            f"| {row['gflop']:.2f} | {row['tensor']} | {row['us']:.1f} | {100 * row['us'] / total:.1f} % |"
        )


if __name__ == "__main__":
    main()
