// An independent reader of hubtool's native folder, format 1, in plain JavaScript (Node 20).
//
// It is written from docs/format.md alone; tests/formats/test_reader.py compares it with hubtool's own reader and
// so shows that the page is enough. It runs no model, so it takes every opset. It refuses what is
// damaged or unknown, but is no guard: of section 11 it leaves out links, keys given twice in JSON
// and layers that read what is not there. Files are under 2 GiB, the machine is little-endian.
//
//     import { read } from "./reader.mjs";
//     const { format, opsets, meta, inputs, outputs, layers, tensors, values } = read(folder);
//
// Attributes: an integer is a BigInt, a float a number, text a string, bytes a Uint8Array, a list
// an Array (a long one fetched from the weights); {tensor}, {graph} and {type} keep their tag, with
// the tensor, graph or value itself inside. A tensor is {dtype, shape, data}: an item of `data` an
// element, two for complex; floats of 16 bits and less are left as their bits.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const ARRAYS = { // stored type → what holds its elements
  F64: Float64Array, I64: BigInt64Array, U64: BigUint64Array, F32: Float32Array, I32: Int32Array,
  U32: Uint32Array, F16: Uint16Array, BF16: Uint16Array, I16: Int16Array, U16: Uint16Array,
  I8: Int8Array, U8: Uint8Array, F8_E4M3: Uint8Array, F8_E5M2: Uint8Array,
};
const STORED = { // dtype → stored type
  float32: "F32", uint8: "U8", int8: "I8", uint16: "U16", int16: "I16", int32: "I32", int64: "I64",
  string: "U8", bool: "U8", float16: "F16", float64: "F64", uint32: "U32", uint64: "U64",
  complex64: "F32", complex128: "F64", bfloat16: "BF16", float8_e4m3fn: "F8_E4M3",
  float8_e4m3fnuz: "U8", float8_e5m2: "F8_E5M2", float8_e5m2fnuz: "U8", uint4: "U8", int4: "U8",
  float4_e2m1fn: "U8", float8_e8m0fnu: "U8", uint2: "U8", int2: "U8", float6_e2m3fn: "U8",
  float6_e3m2fn: "U8",
};
const PACKED = { uint4: 4, int4: 4, float4_e2m1fn: 4, uint2: 2, int2: 2 }; // dtype → bits
const HIGHEST = { bool: 1, float6_e2m3fn: 63, float6_e3m2fn: 63 };

const need = (right, why) => { if (!right) throw new Error(why); };
const text = (bytes) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
const count = (shape) => shape.reduce((n, size) => n * size, 1);
export const each = (object, change) => Object.fromEntries(
  Object.entries(object).map(([key, it]) => [key, change(it, key)]));

function keys(object, what, required, optional = []) {
  for (const key of required) need(Object.hasOwn(object, key), `${what} lacks ${key}`);
  const known = [...required, ...optional];
  for (const key of Object.keys(object)) need(known.includes(key), `${what} has the key ${key}`);
}

export function read(folder) {
  const source = text(readFileSync(join(folder, "graph.json")));
  const { meta } = JSON.parse(source);
  // JSON.parse does not tell 1.0 from 1, so 1.0 becomes {"float": "1.0"}; texts are stepped over.
  const { format, opsets, weights, meta: _, ...told } = JSON.parse(source.replace(
    /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g,
    (token) => (/^"|^-?\d+$/.test(token) ? token : `{"float":"${token}"}`)));
  need(format === 1, `format ${format} is unknown: this reader knows format 1`);
  need(Object.hasOwn(opsets, ""), "opsets lack ONNX itself");
  const files = { found: new Map(), used: new Set() };
  for (const entry of weights) open(folder, entry, files.found);
  const model = { format, opsets, meta, ...graph(told, files) };
  for (const key of files.found.keys()) need(files.used.has(key), `${key} is named nowhere`);
  return model;
}

function open(folder, entry, found) { // one weights file: adds key → {dtype, shape, bytes}
  keys(entry, "an entry of weights", ["file", "sha256", "size"]);
  const { file, sha256, size } = entry;
  need(!/^(|\.|\.\.|graph\.json|[A-Za-z]:.*|.*[/\\\0].*)$/s.test(file), `${file} is no plain name`);
  const all = readFileSync(join(folder, file));
  need(all.length === size, `${file} has ${all.length} bytes, not ${size}`);
  need(createHash("sha256").update(all).digest("hex") === sha256, `${file}: another sha256`);
  const begin = 8 + Number(all.readBigUInt64LE());
  need(begin <= size && all[8] === 0x7b, `${file}: no header`);
  const { __metadata__, ...header } = JSON.parse(text(all.subarray(8, begin)));
  const place = ([, { data_offsets: [from, to] }]) => from + to; // an empty entry before a full one
  let end = 0;
  for (const [key, told] of Object.entries(header).sort((a, b) => place(a) - place(b))) {
    keys(told, key, ["dtype", "shape", "data_offsets"]);
    const { dtype, shape, data_offsets: [from, to] } = told;
    const length = count(shape) * ARRAYS[dtype].BYTES_PER_ELEMENT;
    need(from === end && to - from === length, `${file}: wrong offsets of ${key}`);
    need(!found.has(key), `${key} is in two files`);
    found.set(key, { dtype, shape, bytes: all.subarray(begin + from, begin + to) });
    end = to;
  }
  need(begin + end === size, `${file}: the entries do not fill the data`);
}

function graph(told, files) {
  keys(told, "a graph", ["inputs", "outputs", "layers", "tensors", "values"]);
  const tensors = each(told.tensors, (it, name) => tensor(it, name, files));
  const layers = told.layers.map((layer) => {
    keys(layer, "a layer", ["name", "op", "inputs", "outputs"], ["attrs"]);
    return { ...layer, attrs: each(layer.attrs ?? {}, (it) => attribute(it, tensors, files)) };
  });
  const [inputs, outputs] = [told.inputs, told.outputs].map(
    (values) => values.map((it) => value(it, ["name"])));
  return { inputs, outputs, layers, tensors, values: each(told.values, (it) => value(it)) };
}

function value(told, name = []) {
  keys(told, "a value", ["dtype", "shape", ...name], ["kind"]);
  need(told.dtype === "" || Object.hasOwn(STORED, told.dtype), `${told.dtype} is no type`);
  return { kind: "tensor", ...told };
}

function tensor(told, name, files) {
  keys(told, `tensor ${name}`, ["dtype", "shape", "stored"], ["key"]);
  const { dtype, shape, key = name } = told;
  need(Object.hasOwn(STORED, dtype) && told.stored === STORED[dtype], `${name}: a wrong type`);
  if (dtype === "string") return { dtype, shape, data: texts(files, key, [count(shape) + 1]) };
  const bits = PACKED[dtype];
  if (!bits) {
    const data = stored(files, key, told.stored, dtype.startsWith("c") ? [...shape, 2] : shape);
    need(!HIGHEST[dtype] || data.every((it) => it <= HIGHEST[dtype]), `${name}: no ${dtype}`);
    return { dtype, shape, data };
  }
  const bytes = stored(files, key, "U8", [Math.ceil(count(shape) * bits / 8)]);
  const signed = dtype.startsWith("int");
  const data = new (signed ? Int8Array : Uint8Array)(count(shape));
  for (let i = 0; i < data.length; i++) {
    const element = (bytes[Math.floor(i * bits / 8)] >> (i * bits) % 8) & (2 ** bits - 1);
    data[i] = signed && element >> (bits - 1) ? element - 2 ** bits : element;
  }
  return { dtype, shape, data };
}

function stored({ found, used }, key, dtype, shape) { // without a shape: any
  const entry = found.get(key);
  need(entry?.dtype === dtype, `${key} is not in the weights as ${dtype}`);
  need(!shape || `${entry.shape}` === `${shape}`, `${key} has not the shape ${shape}`);
  used.add(key);
  return new ARRAYS[dtype](new Uint8Array(entry.bytes).buffer); // a copy, and so aligned
}

function texts(files, key, shape) {
  const bytes = stored(files, key, "U8");
  const ends = Array.from(stored(files, `${key}/offsets`, "I64", shape), Number);
  const rise = ends.every((end, i) => (i ? end >= ends[i - 1] : end === 0));
  need(rise && ends.at(-1) === bytes.length, `${key}: wrong offsets`);
  return ends.slice(1).map((end, i) => text(bytes.subarray(ends[i], end)));
}

function attribute(told, tensors, files) {
  if (typeof told === "string") return told;
  if (typeof told === "number") return BigInt(told);
  if (Array.isArray(told)) return told.map((it) => attribute(it, tensors, files));
  const [[tag, it], ...more] = Object.entries(told);
  const long = tag === "list" && files.found.get(it)?.dtype;
  if (more.length) throw new Error(`an attribute with two tags: ${JSON.stringify(told)}`);
  if (tag === "int") return BigInt(it);
  if (tag === "bytes") return new Uint8Array(Buffer.from(it, "base64"));
  if (tag === "type") return { type: value(it) };
  if (tag === "graph") return { graph: graph(it, files) };
  if (tag === "tensor" && Object.hasOwn(tensors, it)) return { tensor: tensors[it] };
  if (long === "U8") return texts(files, it);
  if (long === "I64" || long === "F32") return Array.from(stored(files, it, long));
  const number = tag === "float" && Math.fround(Number(it.replace("inf", "Infinity")));
  if (Number.isFinite(number) || (tag === "float" && /^(-?inf|nan)$/.test(it))) return number;
  throw new Error(`no attribute: ${JSON.stringify(told)}`);
}
