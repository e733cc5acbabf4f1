// `node dump.mjs FOLDER` prints what reader.mjs reads as JSON, so that another reader can be held
// against it; the order of an object's keys does not count.
// An attribute is {"int": decimal}, {"float": the 8 hexadecimal digits of its bits, or "nan"},
// {"bytes": hexadecimal}, {"tensor": …}, {"graph": …}, {"type": …}, text, or a list of these. A
// tensor's `data` give way to the `sha256` of its elements, in C order, little-endian; a type of
// less than 8 bits takes a byte an element, int4 and int2 as int8; a string tensor is the JSON
// array of its texts without white space, only ", \ and controls escaped, in UTF-8.
import { createHash } from "node:crypto";
import { each, read } from "../../examples/reader.mjs";

function shown(it) {
  if (Array.isArray(it)) return it.map(shown);
  if (typeof it === "bigint") return { int: `${it}` };
  if (it instanceof Uint8Array) return { bytes: Buffer.from(it).toString("hex") };
  if (it.tensor) return { tensor: digest(it.tensor) };
  if (it.graph) return { graph: canonical(it.graph) };
  if (typeof it !== "number") return it; // text, {type}
  const bits = Buffer.from(new Float32Array([it]).buffer).reverse().toString("hex");
  return { float: Number.isNaN(it) ? "nan" : bits };
}

function digest({ dtype, shape, data }) {
  const bytes = dtype === "string" ? JSON.stringify(data) : new Uint8Array(data.buffer);
  return { dtype, shape, sha256: createHash("sha256").update(bytes).digest("hex") };
}

function canonical(model) {
  const layers = model.layers.map((it) => ({ ...it, attrs: each(it.attrs, shown) }));
  return { ...model, layers, tensors: each(model.tensors, digest) };
}

console.log(JSON.stringify(canonical(read(process.argv[2]))));
