"""Writes rotary_golden.json: rotary frequencies in float64, from the formulas of the papers.

/usr/bin/python3 tests/models/decoder/rotary_golden.py > tests/models/decoder/rotary_golden.json

default: arXiv 2104.09864, 3.2.2; linear: arXiv 2306.15595, 2.3; dynamic NTK and yarn: arXiv 2309.00071, appendix B.2,
3.2-3.4 (with transformers' rounding and clamping of the ramp's ends); llama3: the description of Llama 3.1's scaling in
transformers' documentation ("low_freq_factor", "high_freq_factor").
"""
import json
import math

import numpy as np


def default(size, theta):
    return theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)


def linear(size, theta, scale):
    return default(size, theta) / scale


def dynamic(size, theta, scale, original, length):
    stretch = scale * max(length, original) / original - (scale - 1)
    return default(size, theta * stretch ** (size / (size - 2)))


def llama3(size, theta, scale, low, high, original):
    result = []
    for frequency in default(size, theta):
        turns = original * frequency / (2 * math.pi)  # over the original context
        if turns < low:
            result.append(frequency / scale)
        elif turns > high:
            result.append(frequency)
        else:
            smooth = (turns - low) / (high - low)
            result.append((1 - smooth) * frequency / scale + smooth * frequency)
    return np.array(result)


def yarn(size, theta, scale, fast, slow, original, truncate=True):
    # The (fractional) channel pair that turns `turns` times: original * theta^(-2d/size) = 2 pi turns.
    def channel(turns):
        return size / 2 * math.log(original / (2 * math.pi * turns), theta)

    low, high = channel(fast), channel(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    gamma = 1 - np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
    frequency = default(size, theta)
    return (1 - gamma) * frequency / scale + gamma * frequency


def temperature(scale, mscale=1.0):
    return 0.1 * mscale * math.log(scale) + 1


def main():
    yarn_text = ("theta: 10000 yarn { scale_factor: 8 beta_fast: 32 beta_slow: 1 "
                 "original_context_length: 4096 %s}")
    llama3_text = ("theta: 500000 llama3 { scale_factor: 8 low_frequency_factor: 1 high_frequency_factor: 4 "
                   "original_context_length: 8192 }")
    dynamic_text = "theta: 10000 dynamic { scale_factor: 2 original_context_length: 64 }"
    cases = [
        ("default", "theta: 10000 standard {}", 16, 8, default(16, 1e4), 1),
        ("linear", "theta: 10000 linear { scale_factor: 4 }", 16, 8, linear(16, 1e4, 4), 1),
        ("llama3", llama3_text, 32, 8, llama3(32, 5e5, 8, 1, 4, 8192), 1),
        ("dynamic_short", dynamic_text, 16, 64, dynamic(16, 1e4, 2, 64, 64), 1),
        ("dynamic_long", dynamic_text, 16, 200, dynamic(16, 1e4, 2, 64, 200), 1),
        ("yarn", yarn_text % "truncate: true ", 32, 8, yarn(32, 1e4, 8, 32, 1, 4096), temperature(8)),
        ("yarn_not_truncated", yarn_text % "", 32, 8, yarn(32, 1e4, 8, 32, 1, 4096, False), temperature(8)),
        ("yarn_attention_factor", yarn_text % "truncate: true attention_factor: 1.5 ", 32, 8,
         yarn(32, 1e4, 8, 32, 1, 4096), 1.5),
        ("yarn_mscale", yarn_text % "truncate: true mscale: 1 mscale_all_dim: 0.5 ", 32, 8,
         yarn(32, 1e4, 8, 32, 1, 4096), temperature(8) / temperature(8, 0.5)),
        ("yarn_short_context",
         "theta: 10000 yarn { scale_factor: 4 beta_fast: 32 beta_slow: 1 original_context_length: 64 truncate: true }",
         16, 8, yarn(16, 1e4, 4, 32, 1, 64), temperature(4)),
    ]
    print(json.dumps([{
        "name": name, "rotary": text, "head_size": size, "length": length,
        "inverse": list(inverse), "attention_factor": factor
    } for name, text, size, length, inverse, factor in cases], indent=1))


main()
