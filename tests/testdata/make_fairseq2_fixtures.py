#!/usr/bin/python3
"""Lays fixtures out as fairseq2 does: tests/testdata/fixtures/fairseq2_*.  Run by hand, with Debian's python3-torch.

    tests/testdata/make_fairseq2_fixtures.py tests/testdata/fixtures

fairseq2 itself cannot be had here.  Its names, wrappers, directories and cuts are written down below once more, after
its sources (0.4: models/llama/convert.py, checkpoint/manager.py; 0.5 and later: models/checkpoint, nn/fsdp), with
torch.save and torch.chunk doing what they do there; nothing is shared with the code under test.
"""

import collections
import hashlib
import json
import os
import re
import struct
import sys

import torch

# Meta's name -> fairseq2's, as in its own table.
FROM_REFERENCE = [
    (r"layers\.([0-9]+)\.attention\.wq\.", r"decoder.layers.\1.self_attn.q_proj."),
    (r"layers\.([0-9]+)\.attention\.wk\.", r"decoder.layers.\1.self_attn.k_proj."),
    (r"layers\.([0-9]+)\.attention\.wv\.", r"decoder.layers.\1.self_attn.v_proj."),
    (r"layers\.([0-9]+)\.attention\.wo\.", r"decoder.layers.\1.self_attn.output_proj."),
    (r"layers\.([0-9]+)\.attention_norm\.", r"decoder.layers.\1.self_attn_layer_norm."),
    (r"layers\.([0-9]+)\.feed_forward\.w1\.", r"decoder.layers.\1.ffn.gate_proj."),
    (r"layers\.([0-9]+)\.feed_forward\.w2\.", r"decoder.layers.\1.ffn.output_proj."),
    (r"layers\.([0-9]+)\.feed_forward\.w3\.", r"decoder.layers.\1.ffn.inner_proj."),
    (r"layers\.([0-9]+)\.ffn_norm\.", r"decoder.layers.\1.ffn_layer_norm."),
    (r"norm\.", r"decoder.layer_norm."),
    (r"tok_embeddings\.", r"decoder_frontend.embed."),
    (r"output\.", r"final_proj."),
]
FROM_HUGGING_FACE = [
    (r"model\.embed_tokens\.", r"decoder_frontend.embed."),
    (r"model\.layers\.([0-9]+)\.self_attn\.o_proj\.", r"decoder.layers.\1.self_attn.output_proj."),
    (r"model\.layers\.([0-9]+)\.self_attn\.([qkv])_proj\.", r"decoder.layers.\1.self_attn.\2_proj."),
    (r"model\.layers\.([0-9]+)\.input_layernorm\.", r"decoder.layers.\1.self_attn_layer_norm."),
    (r"model\.layers\.([0-9]+)\.mlp\.gate_proj\.", r"decoder.layers.\1.ffn.gate_proj."),
    (r"model\.layers\.([0-9]+)\.mlp\.down_proj\.", r"decoder.layers.\1.ffn.output_proj."),
    (r"model\.layers\.([0-9]+)\.mlp\.up_proj\.", r"decoder.layers.\1.ffn.inner_proj."),
    (r"model\.layers\.([0-9]+)\.post_attention_layernorm\.", r"decoder.layers.\1.ffn_layer_norm."),
    (r"model\.norm\.", r"decoder.layer_norm."),
    (r"lm_head\.", r"final_proj."),
]


def renamed(name, table):
    for pattern, replacement in table:
        changed = re.sub("^" + pattern, replacement, name)
        if changed != name:
            return changed
    raise KeyError(name)


def read_reference(path):
    return collections.OrderedDict((renamed(name, FROM_REFERENCE), tensor)
                                   for name, tensor in torch.load(path, map_location="cpu").items()
                                   if "rope.freqs" not in name)


def read_hugging_face(directory):
    """bfloat16 safetensors, with the heads of queries and keys interleaved again."""
    config = json.load(open(os.path.join(directory, "config.json"), encoding="utf-8"))
    state = collections.OrderedDict()
    with open(os.path.join(directory, "model.safetensors"), "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    for name, entry in header.items():
        assert entry["dtype"] == "BF16"
        begin, end = entry["data_offsets"]
        tensor = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.bfloat16).reshape(entry["shape"])
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
        if heads is not None:
            rows, columns = tensor.shape
            tensor = tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        state[renamed(name, FROM_HUGGING_FACE)] = tensor.contiguous()
    return state


def stage_of(name, stages, layers):
    """Equal runs of layers; the frontend with the first, the last norm and the output with the last."""
    match = re.match(r"decoder\.layers\.([0-9]+)\.", name)
    if match:
        return int(match.group(1)) * stages // layers
    return 0 if name.startswith("decoder_frontend.") else stages - 1


def write_tree(directory, ranks, stages, pieces, also_in_last=()):
    """ranks: one state dict per tensor-parallel rank."""
    layers = 1 + max(int(name.split(".")[2]) for name in ranks[0] if name.startswith("decoder.layers."))
    for stage in range(stages):
        for rank, state in enumerate(ranks):
            folder = os.path.join(directory, "pp_%02d" % stage, "tp_%02d" % rank)
            os.makedirs(folder)
            files = [collections.OrderedDict() for _ in range(pieces)]
            for name, tensor in state.items():
                if stage_of(name, stages, layers) != stage and not (stage == stages - 1 and name in also_in_last):
                    continue
                chunks = torch.chunk(tensor, pieces, dim=0)
                for piece in range(pieces):
                    # What FSDP 1 has for a rank without rows.
                    files[piece][name] = chunks[piece].clone() if piece < len(chunks) else torch.empty(0)
            for piece, contents in enumerate(files):
                torch.save(contents, os.path.join(folder, "sdp_%02d.pt" % piece), pickle_protocol=2)


def describe(directory, twin, about):
    sha256 = {}
    for folder, _, names in sorted(os.walk(directory)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                sha256[os.path.relpath(path, directory)] = hashlib.sha256(file.read()).hexdigest()
    with open(os.path.join(directory, "fixture.json"), "w", encoding="utf-8") as file:
        json.dump({"twin": twin, "about": about, "files": sha256,
                   "written_by": "torch %s, tests/testdata/make_fairseq2_fixtures.py" % torch.__version__}, file, indent=1)
        file.write("\n")


def main():
    fixtures = sys.argv[1]

    def start(name):
        directory = os.path.join(fixtures, name, "fairseq2")
        os.makedirs(directory)
        return directory

    def meta(twin, file):
        return read_reference(os.path.join(fixtures, twin, "meta", "consolidated.%02d.pth" % file))

    twin = "meta_llama2_bf16"
    directory = start("fairseq2_llama2_bf16")
    torch.save({"model": meta(twin, 0), "model_key": "model", "fs2": True}, os.path.join(directory, "model.pt"))
    describe(os.path.dirname(directory), twin, "model.pt as fairseq2 0.4 writes it")

    twin = "meta_llama2_gqa_bf16_mp2"
    directory = start("fairseq2_llama2_gqa_bf16_tp2")
    for rank in range(2):
        state = meta(twin, rank)
        torch.save({"step_nr": 7, "weights": state, "model_key": "weights",
                    "optimizer": {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3)}}, "lr": 1e-3}},
                   os.path.join(directory, "model.%d.pt" % rank))
    describe(os.path.dirname(directory), twin,
             "two tensor-parallel files, embedding cut by columns, another model_key, an optimizer beside the model")

    twin = "meta_llama31_bf16_mp2"
    directory = start("fairseq2_llama31_bf16_tree")
    write_tree(os.path.join(directory, "model"), [meta(twin, 0), meta(twin, 1)], stages=2, pieces=5)
    os.makedirs(os.path.join(directory, "trainer"))
    torch.save({"step_nr": 7}, os.path.join(directory, "trainer", "rank_00.pt"))
    describe(os.path.dirname(directory), twin,
             "step_N of fairseq2 0.5: 2 stages, 2 tensor-parallel ranks, 5 uneven pieces, of which some hold an empty float32")

    twin = "llama32_tied_bf16"
    directory = start("fairseq2_llama32_tied_bf16")
    state = read_hugging_face(os.path.join(fixtures, twin, "hf"))
    assert "final_proj.weight" not in state
    write_tree(directory, [state], stages=2, pieces=3, also_in_last=("decoder_frontend.embed.weight",))
    describe(os.path.dirname(directory), twin,
             "tied: no final_proj.weight, the embedding in the first and in the last of 2 stages; 3 uneven pieces")


if __name__ == "__main__":
    main()
