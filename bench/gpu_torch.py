"""PyTorch on the GPU beside npm run gpu:selftest: the same work and shapes, medians of 15 by events and with the wait on the
host's clock. Without PyTorch or a GPU: one line that says so, exit code 1."""
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("PyTorch is not installed")
if not torch.cuda.is_available():
    sys.exit("PyTorch sees no GPU")

torch.backends.cuda.matmul.allow_tf32 = False
start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def timed(name, unit, work, body):
    for _ in range(3):
        body()
    torch.cuda.synchronize()
    device, host = [], []
    for _ in range(15):
        t = time.perf_counter()
        start.record()
        body()
        end.record()
        torch.cuda.synchronize()
        host.append(time.perf_counter() - t)
        device.append(start.elapsed_time(end) * 1e-3)
    d, h = sorted(device)[7], sorted(host)[7]
    print(f"torch {name:<38} {h * 1e6:9.0f} us {d * 1e6:9.0f} us by events {work / h / 1e9:9.1f} {unit}")


def attempt(name, unit, work, make):
    try:
        timed(name, unit, work, make())
    except (RuntimeError, NotImplementedError, AttributeError) as e:
        print(f"torch {name:<38} {str(e).splitlines()[0][:80]}")


print(torch.__version__, torch.cuda.get_device_name(0))
for n in (1024, 4096):
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        a = torch.ones(n, n, device="cuda", dtype=kind)
        attempt(f"gemm {str(kind)[6:]} {n}", "GFLOP/s", 2 * n**3, lambda a=a: lambda: torch.nn.functional.linear(a, a))
    w = torch.randint(-128, 128, (n, n), device="cuda", dtype=torch.int8)
    for rows in (32, n):  # _int_mm takes more than 16 rows
        x = torch.randint(-128, 128, (rows, n), device="cuda", dtype=torch.int8)
        attempt(f"int8 {rows} x {n}, int32 out", "GOP/s", 2 * rows * n * n, lambda x=x, w=w: lambda: torch._int_mm(x, w.t()))
x = torch.randn(4096, 8192, device="cuda")
size = x.numel() * 4
scale = x.abs().amax(1) / 127
zero = torch.zeros(4096, dtype=torch.int64, device="cuda")
attempt("quantize int8 by row, 128 MiB", "GB/s read", size, lambda: lambda: torch.quantize_per_channel(x, x.abs().amax(1) / 127, zero, 0, torch.qint8))
attempt("importance l1, 128 MiB", "GB/s", 2 * size, lambda: lambda: x.abs())
attempt("mask 80 %, 128 MiB", "GB/s read once", size, lambda: lambda: x >= torch.kthvalue(x.flatten(), int(0.8 * x.numel())).values)
s = torch.randn(512, 32768, device="cuda", requires_grad=True)
t = torch.randn(512, 32768, device="cuda")


def kl():
    s.grad = None
    f = torch.nn.functional
    (f.kl_div(f.log_softmax(s / 2, 1), f.log_softmax(t / 2, 1), log_target=True, reduction="batchmean") * 4).backward()


attempt("distill.kl 512 x 32768", "GB/s", 3 * 512 * 32768 * 4, lambda: kl)
