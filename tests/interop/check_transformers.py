#!/usr/bin/env python3
"""Asks transformers for the logits of exported Hugging Face directories.

    check_transformers.py EXPORT=FIXTURE...

Each EXPORT was made of the fixture or of the same model; FIXTURE/expected.safetensors holds tokens, and logits that
other implementations computed.  Prints "interop PASSED" or "interop FAILED" for each.
"""
import json
import os
import sys
import traceback

import safetensors.torch
import torch
import transformers


def apart(export, fixture):
    """The largest difference of a logit, and the largest that the fixture allows."""
    expected = safetensors.torch.load_file(os.path.join(fixture, "expected.safetensors"))
    with open(os.path.join(fixture, "fixture.json")) as file:
        allowed = json.load(file)["atol_fp32"]
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        export, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ValueError(f"{problem}: {info[problem]}")
    with torch.no_grad():
        logits = model.eval()(expected["input_ids"]).logits
    return (logits - expected["logits"]).abs().max().item(), allowed


def main():
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    failed = 0
    for pair in sys.argv[1:]:
        export, fixture = pair.split("=")
        name = os.path.basename(export)
        try:
            difference, allowed = apart(export, fixture)
            fine, detail = difference <= allowed, f"logits apart by {difference:.1e} of {allowed:.0e}"
        except Exception:  # a case that cannot be loaded has failed, and the next one is tried
            fine, detail = False, traceback.format_exc()
        print(f"interop {'PASSED' if fine else 'FAILED'} transformers loads {name}: {detail}", flush=True)
        failed += not fine
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
