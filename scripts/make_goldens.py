#!/usr/bin/env python3
"""Make the goldens that the C++ tests compare with: our PyTorch reference on small random models, tokenizer, text
and omni samples.

Needs `pip install -r scripts/requirements.txt`. Single-threaded fp32 on the CPU, so that two runs agree.

  scripts/make_goldens.py --output tests/golden/data
  scripts/make_goldens.py --check tests/golden/data     # recompute from the stored weights and compare
"""

import argparse
import sys
from pathlib import Path

import torch
from reference.golden_models import check_case, write_models
from reference.golden_omni import check_case as check_omni
from reference.golden_omni import write_omni
from reference.golden_omni_samples import check_omni_samples, write_omni_samples
from reference.golden_texts import check_texts, write_texts


def check(folder: Path) -> list[str]:
    cases = sorted(folder.glob("thinker-*"))
    problems = [problem for case in cases for problem in check_case(case)]
    omni = sorted(path for path in folder.glob("omni-*") if (path / "config.json").exists())
    problems += [problem for case in omni for problem in check_omni(case)]
    problems += check_texts(folder) if (folder / "text-samples").is_dir() else []
    problems += check_omni_samples(folder) if (folder / "omni-samples").is_dir() else []
    print(f"{folder}: {len(cases) + len(omni)} models checked, {len(problems)} disagreements")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--output", type=Path, metavar="DIR", help="write the goldens here")
    mode.add_argument("--check", type=Path, metavar="DIR", help="recompute the goldens of this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.output:
        write_texts(options.output)
        write_models(options.output)
        write_omni(options.output)
        write_omni_samples(options.output)
    problems = check(options.output or options.check)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
