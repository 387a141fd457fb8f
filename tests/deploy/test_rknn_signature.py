"""What the runtime tells about a closed file, asked of a library with the same interface that is compiled here."""

from __future__ import annotations

import subprocess

import pytest

from deploy.foreign_model import find_layout
from deploy.model_probe import probe
from deploy.rknn_signature import rknn_signature
from tests.deploy.test_foreign_model import head_shapes

# A runtime that answers queries about one model and nothing else; declarations as in the vendor's public header.
RUNTIME = """
#include <stdint.h>
#include <string.h>
#include <stdlib.h>
typedef uint64_t ctx;
typedef struct { uint32_t index, n_dims, dims[16]; char name[256]; uint32_t n_elems, size; int fmt, type, qnt_type;
  int8_t fl; int32_t zp; float scale; uint32_t w_stride, size_with_stride; uint8_t pass_through;
  uint32_t h_stride; } attr;
static int set(attr *a, const char *name, int fmt, int type, int c, int h, int w, float scale, int zp) {
  int dims[4] = {1, fmt == 1 ? h : c, fmt == 1 ? w : h, fmt == 1 ? c : w};
  a->n_dims = 4; for (int i = 0; i < 4; i++) a->dims[i] = dims[i];
  strcpy(a->name, name); a->fmt = fmt; a->type = type; a->qnt_type = type == 2 ? 2 : 0; a->scale = scale; a->zp = zp;
  return 0; }
int rknn_init(ctx *c, void *m, uint32_t size, uint32_t f, void *e) {
  if (size < 4 || memcmp(m, "GOOD", 4)) return -6; *c = 77; return 0; }
int rknn_query(ctx c, int cmd, void *info, uint32_t size) {
  if (c != 77) return -7;
  if (cmd == 0) { ((uint32_t *)info)[0] = 1; ((uint32_t *)info)[1] = 9; return 0; }
  attr *a = info; if (size != sizeof(attr)) return -5;
  if (cmd == 1) return set(a, "images", 1, 2, 3, 64, 96, 1.f / 255, -128);
  if (cmd != 2) return -5;
  int level = a->index / 3, kind = a->index % 3, s = 8 << level; char name[9] = "out_0"; name[4] += a->index;
  return set(a, name, level == 1, TYPE, kind == 0 ? 64 : kind == 1 ? 4 : 1, 64 / s, 96 / s,
             kind ? 1.f / 255 : .1f, kind ? -128 : level); }
int rknn_destroy(ctx c) { return c == 77 ? 0 : -7; }
#define STUB(n) int n(void) { abort(); }
STUB(rknn_dup_context) STUB(rknn_set_core_mask) STUB(rknn_inputs_set) STUB(rknn_run) STUB(rknn_outputs_get)
STUB(rknn_outputs_release) STUB(rknn_create_mem) STUB(rknn_destroy_mem) STUB(rknn_set_io_mem) STUB(rknn_mem_sync)
"""


@pytest.fixture(scope="module", params=[(2, "int8"), (1, "fp16")])
def runtime(request, tmp_path_factory):
    kind, precision = request.param
    folder = tmp_path_factory.mktemp("runtime")
    (folder / "runtime.c").write_text(RUNTIME.replace("TYPE", str(kind)))
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(folder / "librknnrt.so"), str(folder / "runtime.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "librknnrt.so", precision


def test_a_runtime_tells_shapes_types_and_scales(runtime, tmp_path):
    library, precision = runtime
    path = tmp_path / "m.rknn"
    path.write_bytes(b"GOOD model")
    read = rknn_signature(path, library)
    assert (read.input_hw, read.precision, len(read.outputs)) == ((64, 96), precision, 9)
    # The second level came as NHWC.
    assert [output.shape for output in read.outputs] == head_shapes(4, (64, 96), sums=True)
    found = find_layout(read, 4, "names.txt")
    assert found.has_sums
    if precision == "int8":
        assert [(round(level.box.scale.scale, 6), level.box.scale.zero_point) for level in found.levels] == [
            (0.1, 0),
            (0.1, 1),
            (0.1, 2),
        ]
        assert probe(read, found).activation == "sigmoid"
    else:
        assert all(output.scale is None for output in read.outputs)
        with pytest.raises(ValueError, match="give --activation"):
            probe(read, found)
    path.write_bytes(b"garbage")
    with pytest.raises(OSError, match="RKNN_ERR_MODEL_INVALID"):
        rknn_signature(path, library)
