"""Writes adamw_golden.json: 20 steps of torch.optim.AdamW (Debian's python3-torch 1.13.1) on given gradients.

/usr/bin/python3 tests/optimizer/adamw_golden.py > tests/optimizer/adamw_golden.json
"""
import json

import torch

STEPS = 20
ELEMENTS = 6


def learning_rate(step):
    return 0.01 * (1 + step % 5)


def gradient(step, row):
    """Exactly representable numbers that a test can recompute: multiples of 1/64 between -2 and 2."""
    return [(((step * 37 + row * 11 + i * 29) % 257) - 128) / 64 for i in range(ELEMENTS)]


def main():
    torch.set_num_threads(1)
    # "matrix" decays, "vector" does not.
    matrix = torch.tensor([[0.5, -1.25, 2.0], [0.03125, -0.75, 1.5]], requires_grad=True)
    vector = torch.tensor([1.0, 0.5, -0.5, 0.25, 2.0, -3.0], requires_grad=True)
    optimizer = torch.optim.AdamW(
        [{"params": [matrix], "weight_decay": 0.1}, {"params": [vector], "weight_decay": 0.0}],
        betas=(0.9, 0.95), eps=1e-8)
    for step in range(STEPS):
        matrix.grad = torch.tensor(gradient(step, 0)).view(2, 3)
        vector.grad = torch.tensor(gradient(step, 1))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
    golden = {}
    for name, parameter in (("matrix", matrix), ("vector", vector)):
        state = optimizer.state[parameter]
        golden[name] = parameter.detach().flatten().tolist()
        golden[name + "/exp_avg"] = state["exp_avg"].flatten().tolist()
        golden[name + "/exp_avg_sq"] = state["exp_avg_sq"].flatten().tolist()
    print(json.dumps(golden, indent=1))


main()
