// Reads exported directories with @huggingface/hub and compares them with the ones they were made from.
//
//   node check_export.mjs EXPORTED=ORIGINAL ...
//
// Checked: headers, `format` metadata, the index and its total_size, and that names, types, shapes and parameter counts
// are the original's.  Prints one line for each directory; the exit code is the number of bad ones.

import { parseSafetensorsMetadata } from "@huggingface/hub";

import { localFetch } from "./local_fetch.mjs";

// Buffers that old versions stored and that are computed from the config; an export leaves them out.
const RECOMPUTED = /\.rotary_emb\.inv_freq$/;

async function read(directory) {
  const parsed = await parseSafetensorsMetadata({
    repo: "local/checkpoint",
    computeParametersCount: true,
    fetch: localFetch(directory),
  });
  const files = parsed.sharded ? parsed.headers : { [parsed.filepaths[0]]: parsed.header };
  const tensors = new Map();
  for (const [file, { __metadata__, ...entries }] of Object.entries(files)) {
    for (const [name, info] of Object.entries(entries)) {
      if (tensors.has(name)) {
        throw new Error(`tensor "${name}" is in two files`);
      }
      tensors.set(name, { ...info, file });
    }
  }
  return { parsed, files, tensors };
}

function checkIndex({ parsed, tensors }) {
  const weightMap = parsed.index.weight_map;
  for (const [name, { file }] of tensors) {
    if (weightMap[name] !== file) {
      throw new Error(`the index puts "${name}" in "${weightMap[name]}", it is in "${file}"`);
    }
  }
  if (Object.keys(weightMap).length !== tensors.size) {
    throw new Error(`the index names ${Object.keys(weightMap).length} tensors, the files hold ${tensors.size}`);
  }
  let bytes = 0;
  for (const { data_offsets: [begin, end] } of tensors.values()) {
    bytes += end - begin;
  }
  if (Number(parsed.index.metadata.total_size) !== bytes) {
    throw new Error(`total_size is ${parsed.index.metadata.total_size}, the tensors have ${bytes} bytes`);
  }
}

async function check(exportedDirectory, originalDirectory) {
  const exported = await read(exportedDirectory);
  const original = await read(originalDirectory);
  for (const [file, { __metadata__ }] of Object.entries(exported.files)) {
    if (__metadata__?.format !== "pt") {
      throw new Error(`"${file}" says format ${JSON.stringify(__metadata__?.format)}, wanted "pt"`);
    }
  }
  if (exported.parsed.sharded) {
    checkIndex(exported);
  }
  const wanted = new Map([...original.tensors].filter(([name]) => !RECOMPUTED.test(name)));
  const counts = {};
  for (const [name, { dtype, shape }] of wanted) {
    const found = exported.tensors.get(name);
    if (!found || found.dtype !== dtype || JSON.stringify(found.shape) !== JSON.stringify(shape)) {
      throw new Error(`"${name}": ${JSON.stringify(found)}, wanted ${dtype} ${JSON.stringify(shape)}`);
    }
    counts[dtype] = (counts[dtype] ?? 0) + shape.reduce((product, size) => product * size, 1);
  }
  if (exported.tensors.size !== wanted.size) {
    throw new Error(`${exported.tensors.size} tensors, wanted ${wanted.size}`);
  }
  if (JSON.stringify(exported.parsed.parameterCount) !== JSON.stringify(counts)) {
    throw new Error(
      `${JSON.stringify(exported.parsed.parameterCount)} parameters, wanted ${JSON.stringify(counts)}`,
    );
  }
  return `${wanted.size} tensors, ${JSON.stringify(counts)} parameters, ${Object.keys(exported.files).length} file(s)`;
}

const pairs = process.argv.slice(2).map((pair) => pair.split("="));
if (pairs.length === 0 || pairs.some((pair) => pair.length !== 2)) {
  console.error("usage: node check_export.mjs EXPORTED=ORIGINAL ...");
  process.exit(255);
}
let failed = 0;
for (const [exported, original] of pairs) {
  try {
    console.log(`interop PASSED ${exported}: ${await check(exported, original)}`);
  } catch (error) {
    failed += 1;
    console.log(`interop FAILED ${exported}: ${error.message}`);
  }
}
process.exit(failed);
