"""``python -m integration_tests.gpu_check``: runs all subjects, and writes one JSON file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from integration_tests.gpu_check.sizes import SMALL, Sizes
from integration_tests.gpu_check.subjects import SUBJECTS, machine, run


def main(arguments: list[str] | None = None) -> int:
    """Run the subjects; return 1 if one has failed, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m integration_tests.gpu_check")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="the JSON file")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--device", default="cuda", help="cpu runs small sizes, interpreted")
    parser.add_argument("--host", help="vLLM's model for the tokens a second; a tiny one if not")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    sizes = Sizes()
    if device.type == "cpu":
        from vllm_logits_processor.testing.interpreted import kernel_device

        device, sizes = kernel_device(interpreted=True), SMALL
    elif not torch.cuda.is_available():
        print("torch sees no GPU here; --device cpu shows that the kit runs.", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {}
    found = {"machine": machine(device), "device": device.type, "subjects": results}
    for name in options.only:
        more = {"host": options.host} if name == "serving" else {}
        result = results[name] = run(name, device, sizes, **more)
        said = result.get("reason") or "; ".join(result["failures"])
        print(f"{name}: {result['state']}{f' ({said})' if said else ''}", flush=True)
        # After each subject: a machine may be taken back.
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(each["state"] == "failed" for each in results.values()))


if __name__ == "__main__":
    sys.exit(main())
