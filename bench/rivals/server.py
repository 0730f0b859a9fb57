"""Runs Python's rivals for the benchmarks: one JSON message a line on stdin, one answer a line on stdout.

{"do": "versions"}                                   -> {"ok": true, "versions": {"numpy": "2.1.0", ...}}
{"do": "prepare", "id", "uses", "inputs", "model",
 "setup", "op", "result"}                            -> {"ok": true}
{"do": "run", "id", "repeats"}                       -> {"ok": true, "ms": milliseconds of one repetition}
{"do": "result", "id", "file"}                       -> {"ok": true, "dtype": "float32"}; the array lies in the file
{"do": "drop", "id"}                                 -> {"ok": true}

The code comes from bench/<family>.ts. Only `op` is timed, inside this process.
"""
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import time

THREADS = int(os.environ.get("WHITTLE_BENCH_THREADS", "1"))
MODULES = ["numpy", "scipy", "torch", "onnxruntime"]


def versions():
    found = {"python": sys.version.split()[0]}
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def scope(uses):
    """Imports happen here, once and untimed, and only for the rivals that a run needs."""
    import numpy

    names = {"np": numpy, "threads": THREADS}
    if uses == "torch":
        import torch

        torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
        names["torch"] = torch
    elif uses == "scipy":
        import scipy

        names["scipy"] = scipy
        for part in ("linalg", "sparse"):
            importlib.import_module("scipy." + part)
    elif uses == "onnxruntime":
        import onnxruntime

        names["ort"] = onnxruntime
    return names


def session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Job:
    def __init__(self, message):
        import numpy

        self.names = scope(message["uses"])
        for name, a in message["inputs"].items():
            self.names[name] = numpy.fromfile(a["file"], dtype=a["dtype"]).reshape(a["dims"])
        if message.get("model"):
            self.names["session"] = session(message["model"])
        exec(compile(message["setup"], "setup", "exec"), self.names)
        # A function, so that the timed code has the speed of a function's body; its names stay global.
        body = "\n".join("        " + line for line in message["op"].split("\n"))
        assigned = sorted({t.id for t in assigned_names(message["op"])})
        glob = "    global %s\n" % ", ".join(assigned) if assigned else ""
        text = "def __run(repeats):\n%s    for _ in range(repeats):\n%s\n" % (glob, body)
        exec(compile(text, "op", "exec"), self.names)
        self.result = compile(message["result"], "result", "eval") if message["result"] else None

    def run(self, repeats):
        go = self.names["__run"]
        start = time.perf_counter()
        go(repeats)
        return (time.perf_counter() - start) * 1e3 / repeats

    def write(self, path):
        import numpy

        a = eval(self.result, self.names)
        if hasattr(a, "numpy"):
            a = a.numpy()
        a = numpy.ascontiguousarray(a)
        a.tofile(path)
        return str(a.dtype)


def assigned_names(text):
    import ast

    return [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def main():
    # Whatever a library prints must not end up between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jobs = {}
    for line in sys.stdin:
        m = json.loads(line)
        answer = {"ok": True}
        try:
            if m["do"] == "versions":
                answer["versions"] = versions()
            elif m["do"] == "prepare":
                jobs[m["id"]] = Job(m)
            elif m["do"] == "run":
                answer["ms"] = jobs[m["id"]].run(m["repeats"])
            elif m["do"] == "result":
                answer["dtype"] = jobs[m["id"]].write(m["file"])
            elif m["do"] == "drop":
                jobs.pop(m["id"], None)
            else:
                raise ValueError("unknown message")
        except BaseException as e:  # the harness turns it into a row that says why
            answer = {"ok": False, "error": "%s: %s" % (type(e).__name__, str(e).split("\n")[0])}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    if "--list" in sys.argv:
        for name, version in versions().items():
            print(name, version)
    else:
        main()
