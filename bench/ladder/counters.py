#!/usr/bin/env python3
"""Prints what the versions of attention_ladder cost, from the counters of a simulator: a table in Markdown.

Example:
  GPUSIM_STATS=ladder.json $OMNI_CUDA_LAUNCHER build/cuda/bin/attention_ladder --model-shape-only
  python3 bench/ladder/counters.py ladder.json
"""

import argparse
import json

VERSIONS = {"naive": "::naive::", "tiled": "::tiled::", "tensor cores": "::tensor_cores::", "the model's": "mma_forward"}


def millions(x):
    return f"{x / 1e6:,.2f}"


# A row of the table: its title, and its text from the counters of a version, summed over kernels.
ROWS = {
    "launches": lambda c: f"{c['launches']}",
    "global sectors, millions": lambda c: millions(c["sectors"]),
    "bytes in these sectors, MB": lambda c: millions(32 * c["sectors"]),
    "coalescing": lambda c: f"{c['ideal_sectors'] / c['sectors']:.3f}",
    "unique bytes, MB": lambda c: millions(c["unique_read_bytes"] + c["unique_write_bytes"]),
    "shared memory cycles, millions": lambda c: millions(c["shared_cycles"]),
    "of these bank conflicts, millions": lambda c: millions(c["conflicts"]),
    "tensor-core MFLOP": lambda c: millions(c["tensor_flops"]),
    "f32 MFLOP": lambda c: millions(c["fp32_flops"]),
    "warp instructions, millions": lambda c: millions(c["warp_instructions"]),
}


def counters_of(kernels, part):
    total = {}
    for kernel in kernels:
        if part not in kernel["kernel"]:
            continue
        for key, value in kernel.items():
            if isinstance(value, int):
                total[key] = total.get(key, 0) + value
    if not total:
        raise SystemExit(f"no kernel with {part} in its name")
    total["sectors"] = total["global_load_sectors"] + total["global_store_sectors"]
    total["ideal_sectors"] = total["global_load_sectors_ideal"] + total["global_store_sectors_ideal"]
    total["conflicts"] = total["shared_load_conflict_cycles"] + total["shared_store_conflict_cycles"]
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", help="the file that GPUSIM_STATS named")
    with open(parser.parse_args().json, encoding="utf-8") as file:
        kernels = json.load(file)["kernels"]
    versions = {name: counters_of(kernels, part) for name, part in VERSIONS.items()}
    print("| | " + " | ".join(versions) + " |\n|---" + "|---:" * len(versions) + "|")
    for title, text in ROWS.items():
        print(f"| {title} | " + " | ".join(text(counters) for counters in versions.values()) + " |")


if __name__ == "__main__":
    main()
