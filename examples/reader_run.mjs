// Runs the digits model from its native folder with nothing but reader.mjs and plain loops, as a
// stranger to hubtool would who has docs/format.md and ONNX's definition of seven operators.
//
//     node reader_run.mjs FOLDER PICTURES.f32 > answer.json
//
// PICTURES holds float32 of shape [N, 1, 8, 8]. The answer: Node's version, the sha256 of the
// weights (each name, a line feed and its bytes, by name) and the logits.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { read } from "./reader.mjs";

const OPERATORS = {
  Conv({ X, W, B }, { strides, pads }) {
    const [N, C, H, width] = X.shape;
    const [M, , kH, kW] = W.shape;
    const [sH, sW] = strides.map(Number);
    const [top, left, bottom, right] = pads.map(Number);
    const oH = Math.floor((H + top + bottom - kH) / sH) + 1;
    const oW = Math.floor((width + left + right - kW) / sW) + 1;
    const Y = make([N, M, oH, oW]);
    let at = 0;
    for (let n = 0; n < N; n++) for (let m = 0; m < M; m++)
      for (let y = 0; y < oH; y++) for (let x = 0; x < oW; x++) {
        let sum = B ? B.data[m] : 0;
        for (let c = 0; c < C; c++) for (let i = 0; i < kH; i++) {
          const row = y * sH + i - top;
          if (row < 0 || row >= H) continue;
          for (let j = 0; j < kW; j++) {
            const column = x * sW + j - left;
            if (column < 0 || column >= width) continue;
            sum += X.data[((n * C + c) * H + row) * width + column]
              * W.data[((m * C + c) * kH + i) * kW + j];
          }
        }
        Y.data[at++] = sum;
      }
    return Y;
  },
  BatchNormalization({ X, scale, B, input_mean, input_var }, { epsilon }) {
    const [, C, ...rest] = X.shape;
    const area = rest.reduce((a, b) => a * b, 1);
    return map(X, (x, at) => {
      const c = Math.floor(at / area) % C;
      const deviation = Math.sqrt(input_var.data[c] + epsilon);
      return (x - input_mean.data[c]) / deviation * scale.data[c] + B.data[c];
    });
  },
  Relu: ({ X }) => map(X, (x) => Math.max(x, 0)),
  Add: ({ A, B }) => map(A, (a, at) => a + B.data[at]),
  GlobalAveragePool({ X }) {
    const [N, C, H, width] = X.shape;
    const area = H * width;
    return map(make([N, C, 1, 1]), (_, at) => {
      let sum = 0;
      for (let i = 0; i < area; i++) sum += X.data[at * area + i];
      return sum / area;
    });
  },
  Flatten: ({ input }) => ({ shape: [input.shape[0], input.data.length / input.shape[0]], data: input.data }),
  Gemm({ A, B, C }, { transB }) {
    const [N, K] = A.shape;
    const M = C.data.length;
    if (transB !== 1n) throw new Error("this Gemm is written for transB = 1");
    return map(make([N, M]), (_, at) => {
      const [n, m] = [Math.floor(at / M), at % M];
      let sum = C.data[m];
      for (let k = 0; k < K; k++) sum += A.data[n * K + k] * B.data[m * K + k];
      return sum;
    });
  },
};

const make = (shape) => ({ shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) });
const map = ({ shape, data }, change) => ({ shape, data: data.map(change) });

function run(model, X) {
  const values = { ...model.tensors, [model.inputs[0].name]: X };
  for (const { name, op, inputs, outputs, attrs } of model.layers) {
    if (!OPERATORS[op]) throw new Error(`${name}: no ${op} here`);
    const named = Object.entries(inputs).map(([formal, value]) => [formal, values[value]]);
    values[outputs[0]] = OPERATORS[op](Object.fromEntries(named), attrs);
  }
  return values[model.outputs[0].name];
}

function digest(tensors) {
  const sha256 = createHash("sha256");
  for (const name of Object.keys(tensors).sort())
    sha256.update(`${name}\n`).update(new Uint8Array(tensors[name].data.buffer));
  return sha256.digest("hex");
}

const [folder, pictures] = process.argv.slice(2);
const model = read(folder);
const data = new Float32Array(new Uint8Array(readFileSync(pictures)).buffer);
const logits = run(model, { shape: [data.length / 64, 1, 8, 8], data });
console.log(JSON.stringify({
  version: process.version, sha256: digest(model.tensors), logits: Array.from(logits.data),
}));
