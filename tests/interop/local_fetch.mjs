// A fetch() that answers from a directory, so that a client of the Hugging Face Hub reads local files.
//
// URLs look like https://huggingface.co/<owner>/<name>/<resolve|raw>/<revision>/<path>; the path is looked up below the
// directory.  Nothing goes over the network.

import { open, stat } from "node:fs/promises";
import path from "node:path";

export function localFetch(directory) {
  return async (input, init = {}) => {
    const url = new URL(input.url ?? input);
    const match = /^\/[^/]+\/[^/]+\/(?:resolve|raw)\/[^/]+\/(.+)$/.exec(url.pathname);
    if (!match) {
      throw new Error(`unexpected request: ${url}`);
    }
    const file = path.join(directory, decodeURIComponent(match[1]));
    let size;
    try {
      size = (await stat(file)).size;
    } catch (error) {
      if (error.code !== "ENOENT") {
        throw error;
      }
      return new Response("Entry not found", { status: 404, headers: { "X-Error-Code": "EntryNotFound" } });
    }
    const headers = { ETag: '"local"', "Content-Type": "application/octet-stream" };
    if ((init.method ?? "GET") === "HEAD") {
      return new Response(null, { status: 200, headers: { ...headers, "Content-Length": String(size) } });
    }
    const range = /^bytes=(\d+)-(\d+)$/.exec(new Headers(init.headers).get("Range") ?? "");
    const begin = range ? Number(range[1]) : 0;
    const end = range ? Math.min(Number(range[2]) + 1, size) : size;
    const handle = await open(file);
    try {
      const bytes = Buffer.alloc(Math.max(0, end - begin));
      await handle.read(bytes, 0, bytes.length, begin);
      const status = range ? 206 : 200;
      return new Response(bytes, {
        status,
        headers: range ? { ...headers, "Content-Range": `bytes ${begin}-${end - 1}/${size}` } : headers,
      });
    } finally {
      await handle.close();
    }
  };
}
