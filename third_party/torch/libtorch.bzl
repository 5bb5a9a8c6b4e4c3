"""Which libtorch everything is built with: Debian's, or the one that LIBTORCH names.

    bazel build --repo_env=LIBTORCH=/opt/libtorch //...

LIBTORCH is a folder with libtorch's `include` and `lib`: an unpacked download, or the `torch` folder of a Python
installation.  One with CUDA is taken with it, and with NCCL; then CUDA_HOME (/usr/local/cuda) has CUDA's headers, and
NCCL_HOME, where `nccl.h` is not beside CUDA's, in Python's packages or in /usr/include, has NCCL's.
"""

# The only folders of libtorch's headers that are ours to see: it also has copies of those of other libraries, in other
# versions than ours (Protocol Buffers).
_HEADERS = ["ATen", "c10", "caffe2", "gloo", "torch"]

_BUILD = """package(default_visibility = ["//visibility:public"])

cc_library(
    name = "aten",
    hdrs = glob({headers}),
    defines = {defines},
    includes = {includes},
    linkopts = {linkopts},
)

cc_library(
    name = "gloo",
    linkopts = {gloo_linkopts},
)
"""

def _loaded(libraries):
    # Some are named by nothing: being loaded, they make themselves known.
    return ["-Wl,--no-as-needed"] + ["-l" + library for library in libraries] + ["-Wl,--as-needed"]

def _write_build(ctx, headers = [], includes = [], defines = [], linkopts = [], gloo_linkopts = []):
    ctx.file("BUILD.bazel", _BUILD.format(
        defines = repr(defines),
        gloo_linkopts = repr(gloo_linkopts),
        headers = repr([folder + "/**" for folder in headers]),
        includes = repr(includes),
        linkopts = repr(linkopts),
    ))

def _link_nccl(ctx, home):
    folders = [ctx.os.environ["NCCL_HOME"] + "/include"] if "NCCL_HOME" in ctx.os.environ else []
    folders += [
        ctx.os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/include",
        home + "/../nvidia/nccl/include",
        "/usr/include",
    ]
    for folder in folders:
        if ctx.path(folder + "/nccl.h").exists:
            ctx.symlink(folder + "/nccl.h", "nccl/nccl.h")
            return
    fail("LIBTORCH={} has CUDA, and nccl.h is in none of {}; let NCCL_HOME name its place".format(home, folders))

def _link_cuda(ctx):
    cuda = ctx.os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if not ctx.path(cuda + "/include/cuda_runtime.h").exists:
        fail("LIBTORCH has CUDA, and {}/include has no cuda_runtime.h; let CUDA_HOME name its place".format(cuda))
    ctx.symlink(cuda + "/include", "cuda")

def _libtorch_impl(ctx):
    home = ctx.os.environ.get("LIBTORCH", "")
    if not home:
        # The compiler and the linker find Debian's by themselves.
        _write_build(ctx, linkopts = _loaded(["torch_cpu", "c10"]), gloo_linkopts = ["-lgloo"])
        return
    if not ctx.path(home + "/include/ATen").exists:
        fail("LIBTORCH={} has no include/ATen; it must be a libtorch, with include and lib".format(home))
    for folder in _HEADERS:
        if ctx.path(home + "/include/" + folder).exists:
            ctx.symlink(home + "/include/" + folder, "include/" + folder)
    has_cuda = ctx.path(home + "/lib/libtorch_cuda.so").exists
    if has_cuda:
        _link_cuda(ctx)
        _link_nccl(ctx, home)
    _write_build(
        ctx,
        headers = ["include"] + (["cuda", "nccl"] if has_cuda else []),
        includes = ["include", "include/torch/csrc/api/include"] + (["cuda", "nccl"] if has_cuda else []),
        defines = ["USE_C10D_NCCL"] if has_cuda else [],
        linkopts = [
            "-L" + home + "/lib",
            "-Wl,-rpath," + home + "/lib",
            # What libtorch needs itself, it finds itself when it is loaded.
            "-Wl,--allow-shlib-undefined",
        ] + _loaded(["torch_cpu", "c10"] + (["torch_cuda", "c10_cuda"] if has_cuda else [])),
        gloo_linkopts = ["-lgloo"] if ctx.path(home + "/lib/libgloo.so").exists else [],
    )

libtorch = repository_rule(
    implementation = _libtorch_impl,
    environ = ["LIBTORCH", "CUDA_HOME", "NCCL_HOME"],
    local = True,
    doc = """`aten`, with which tensors and process groups are compiled and linked, and `gloo`, whose classes the header
of c10d's process group over Gloo names: a library of its own with Debian's libtorch; others may have it inside, and
must not meet a second one.""",
)
