// Perfetto's trace processor between standard input and standard output.
//
//     node trace_processor.js FOLDER
//
// FOLDER has trace_processor.wasm and engine_bundle.node.js, the code around it, which expects to
// be in a browser's worker. Requests come in and answers go out as TraceProcessorRpcStream messages
// (Perfetto, protos/perfetto/trace_processor/trace_processor.proto).
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const folder = process.argv[2];

// What the bundle asks of a worker: to be in one, the messages that it is sent, and a file.
globalThis.self = globalThis;
globalThis.WorkerGlobalScope = class {};
globalThis.location = { href: "http://localhost/" };
globalThis.XMLHttpRequest = class {
  open() {}
  send() {
    this.response = fs.readFileSync(path.join(folder, "trace_processor.wasm"));
  }
};
console.log = console.warn = () => {};

// Where a module of nothing but a 64-bit memory compiles it wants a build for such memory, which is
// not there. So that one must not: a first section 5, whose memory has flag 4 (WebAssembly 3.0).
const { Module } = WebAssembly;
WebAssembly.Module = function (code) {
  if (code[8] === 5 && code[11] === 4) throw new WebAssembly.CompileError("no memory of 64 bits");
  return new Module(code);
};

const port = {
  postMessage(data) {
    for (let done = 0; done < data.length; ) done += fs.writeSync(1, data, done);
  },
};
vm.runInThisContext(fs.readFileSync(path.join(folder, "engine_bundle.node.js"), "utf8"));
globalThis.onmessage({ data: port });
// The bundle is ready when the promises that it has made so far are kept.
setImmediate(() => {
  process.stdin.on("data", (data) => port.onmessage({ data: new Uint8Array(data) }));
});
