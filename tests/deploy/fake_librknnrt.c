/* A stand-in for librknnrt.so with the same C interface, for the tests of the ctypes backend.
 *
 * Written from the declarations of the vendor's public header rknn_api.h 2.x, independently of the ctypes side. The
 * "model" is text: what the test wants the runtime to answer.
 *
 *     fake-rknn
 *     input HEIGHT WIDTH CHANNELS W_STRIDE
 *     output NAME CHANNELS HEIGHT WIDTH SCALE ZERO_POINT TYPE FMT W_STRIDE C1 H W C2 NATIVE_W_STRIDE EXTRA
 *
 * FMT is NCHW, NHWC, or FLAT for three dimensions (1, CHANNELS, HEIGHT * WIDTH). The "network": integer v of output o at channel c, row y, column x is, modulo 256 and then less 128,
 *     sum over the cell's pixels of (1 * R + 3 * G + 5 * B) * (1 + position in the cell) + 7 c + 13 o + 31 y + 17 x.
 * Shared memory is not coherent: the network sees what was synchronised to the device, the CPU what came from it. Memory
 * is full of a pattern first, and a border behind it must stay as it is.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RKNN_MAX_DIMS 16
#define RKNN_MAX_NAME_LEN 256

typedef uint64_t rknn_context;

typedef enum { RKNN_TENSOR_FLOAT32, RKNN_TENSOR_FLOAT16, RKNN_TENSOR_INT8, RKNN_TENSOR_UINT8 } rknn_tensor_type;
typedef enum { RKNN_TENSOR_QNT_NONE, RKNN_TENSOR_QNT_DFP, RKNN_TENSOR_QNT_AFFINE_ASYMMETRIC } rknn_tensor_qnt_type;
typedef enum { RKNN_TENSOR_NCHW, RKNN_TENSOR_NHWC, RKNN_TENSOR_NC1HWC2, RKNN_TENSOR_UNDEFINED } rknn_tensor_format;
typedef enum { RKNN_MEMORY_SYNC_TO_DEVICE = 1, RKNN_MEMORY_SYNC_FROM_DEVICE = 2 } rknn_mem_sync_mode;
typedef enum {
    RKNN_QUERY_IN_OUT_NUM = 0,
    RKNN_QUERY_INPUT_ATTR = 1,
    RKNN_QUERY_OUTPUT_ATTR = 2,
    RKNN_QUERY_PERF_RUN = 4,
    RKNN_QUERY_SDK_VERSION = 5,
    RKNN_QUERY_NATIVE_INPUT_ATTR = 8,
    RKNN_QUERY_NATIVE_OUTPUT_ATTR = 9
} rknn_query_cmd;
typedef int rknn_core_mask;

enum { FAIL = -1, PARAM_INVALID = -5, MODEL_INVALID = -6, CTX_INVALID = -7, INPUT_INVALID = -8, OUTPUT_INVALID = -9 };

typedef struct {
    uint32_t n_input;
    uint32_t n_output;
} rknn_input_output_num;

typedef struct {
    uint32_t index;
    uint32_t n_dims;
    uint32_t dims[RKNN_MAX_DIMS];
    char name[RKNN_MAX_NAME_LEN];
    uint32_t n_elems;
    uint32_t size;
    rknn_tensor_format fmt;
    rknn_tensor_type type;
    rknn_tensor_qnt_type qnt_type;
    int8_t fl;
    int32_t zp;
    float scale;
    uint32_t w_stride;
    uint32_t size_with_stride;
    uint8_t pass_through;
    uint32_t h_stride;
} rknn_tensor_attr;

typedef struct {
    int64_t run_duration;
} rknn_perf_run;

typedef struct {
    char api_version[256];
    char drv_version[256];
} rknn_sdk_version;

typedef struct {
    void *virt_addr;
    uint64_t phys_addr;
    int32_t fd;
    int32_t offset;
    uint32_t size;
    uint32_t flags;
    void *priv_data;
} rknn_tensor_mem;

typedef struct {
    uint32_t index;
    void *buf;
    uint32_t size;
    uint8_t pass_through;
    rknn_tensor_type type;
    rknn_tensor_format fmt;
} rknn_input;

typedef struct {
    uint8_t want_float;
    uint8_t is_prealloc;
    uint32_t index;
    void *buf;
    uint32_t size;
} rknn_output;

#define MAX_OUTPUTS 16
#define BORDER 64
#define PATTERN 0xA5

typedef struct {
    rknn_tensor_attr plain, native;
    int channels, height, width, extra;
    rknn_tensor_mem *memory;
    rknn_tensor_attr bound;
} output_t;

typedef struct {
    rknn_tensor_attr attr;
    int height, width, channels;
    rknn_tensor_mem *memory;
    rknn_tensor_attr bound;
    uint8_t *copied;
} input_t;

typedef struct {
    int used, n_output, ran, inside;
    input_t input;
    output_t output[MAX_OUTPUTS];
    uint8_t *result[MAX_OUTPUTS];
} context_t;

#define MAX_CONTEXTS 64
static context_t contexts[MAX_CONTEXTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char calls[1 << 18];
static size_t calls_end;
static char fail_call[64];
static int fail_code, fail_after, fail_times, latency_us, chatter, live_memories, overlaps, broken_borders;

/* What the test reads and sets. */

const char *fake_calls(void) { return calls; }
int fake_live_memories(void) { return live_memories; }
int fake_overlaps(void) { return overlaps; }
int fake_broken_borders(void) { return broken_borders; }
void fake_latency(int us) { latency_us = us; }
void fake_chatter(int on) { chatter = on; }
int fake_live_contexts(void) {
    int n = 0;
    for (int i = 0; i < MAX_CONTEXTS; i++) n += contexts[i].used;
    return n;
}
void fake_reset(void) {
    calls_end = 0;
    calls[0] = 0;
    fail_call[0] = 0;
    latency_us = chatter = overlaps = broken_borders = 0;
}
/* From call number `after` (0: the next) of that function on, answer `code`, so many times; pointers are NULL then. */
void fake_fail(const char *call, int code, int after, int times) {
    snprintf(fail_call, sizeof fail_call, "%s", call);
    fail_code = code;
    fail_after = after;
    fail_times = times;
}

#define FIELD(type, field) \
    end += snprintf(text + end, sizeof text - end, "%s.%s %zu %zu\n", #type, #field, offsetof(type, field), sizeof(((type *)0)->field))
#define SIZE(type) end += snprintf(text + end, sizeof text - end, "%s %zu\n", #type, sizeof(type))
#define VALUE(name) end += snprintf(text + end, sizeof text - end, "%s = %d\n", #name, (int)name)

const char *fake_layout(void) {
    static char text[8192];
    size_t end = 0;
    SIZE(rknn_context); SIZE(rknn_input_output_num); SIZE(rknn_tensor_attr); SIZE(rknn_tensor_mem); SIZE(rknn_input);
    SIZE(rknn_output); SIZE(rknn_sdk_version); SIZE(rknn_perf_run);
    FIELD(rknn_input_output_num, n_input); FIELD(rknn_input_output_num, n_output);
    FIELD(rknn_tensor_attr, index); FIELD(rknn_tensor_attr, n_dims); FIELD(rknn_tensor_attr, dims);
    FIELD(rknn_tensor_attr, name); FIELD(rknn_tensor_attr, n_elems); FIELD(rknn_tensor_attr, size);
    FIELD(rknn_tensor_attr, fmt); FIELD(rknn_tensor_attr, type); FIELD(rknn_tensor_attr, qnt_type);
    FIELD(rknn_tensor_attr, fl); FIELD(rknn_tensor_attr, zp); FIELD(rknn_tensor_attr, scale);
    FIELD(rknn_tensor_attr, w_stride); FIELD(rknn_tensor_attr, size_with_stride);
    FIELD(rknn_tensor_attr, pass_through); FIELD(rknn_tensor_attr, h_stride);
    FIELD(rknn_tensor_mem, virt_addr); FIELD(rknn_tensor_mem, phys_addr); FIELD(rknn_tensor_mem, fd);
    FIELD(rknn_tensor_mem, offset); FIELD(rknn_tensor_mem, size); FIELD(rknn_tensor_mem, flags);
    FIELD(rknn_tensor_mem, priv_data);
    FIELD(rknn_input, index); FIELD(rknn_input, buf); FIELD(rknn_input, size); FIELD(rknn_input, pass_through);
    FIELD(rknn_input, type); FIELD(rknn_input, fmt);
    FIELD(rknn_output, want_float); FIELD(rknn_output, is_prealloc); FIELD(rknn_output, index); FIELD(rknn_output, buf);
    FIELD(rknn_output, size);
    FIELD(rknn_sdk_version, api_version); FIELD(rknn_sdk_version, drv_version);
    FIELD(rknn_perf_run, run_duration);
    VALUE(RKNN_QUERY_IN_OUT_NUM); VALUE(RKNN_QUERY_INPUT_ATTR); VALUE(RKNN_QUERY_OUTPUT_ATTR);
    VALUE(RKNN_QUERY_PERF_RUN); VALUE(RKNN_QUERY_SDK_VERSION); VALUE(RKNN_QUERY_NATIVE_INPUT_ATTR);
    VALUE(RKNN_QUERY_NATIVE_OUTPUT_ATTR); VALUE(RKNN_TENSOR_FLOAT32); VALUE(RKNN_TENSOR_FLOAT16);
    VALUE(RKNN_TENSOR_INT8); VALUE(RKNN_TENSOR_UINT8); VALUE(RKNN_TENSOR_NCHW); VALUE(RKNN_TENSOR_NHWC);
    VALUE(RKNN_TENSOR_NC1HWC2); VALUE(RKNN_TENSOR_UNDEFINED); VALUE(RKNN_TENSOR_QNT_NONE); VALUE(RKNN_TENSOR_QNT_DFP);
    VALUE(RKNN_TENSOR_QNT_AFFINE_ASYMMETRIC); VALUE(RKNN_MEMORY_SYNC_TO_DEVICE); VALUE(RKNN_MEMORY_SYNC_FROM_DEVICE);
    return text;
}

/* Record a call; returns 1 where it must fail. */
static int record(const char *call, const char *more) {
    pthread_mutex_lock(&lock);
    if (calls_end < sizeof calls - 256) calls_end += snprintf(calls + calls_end, 256, "%s %s\n", call, more);
    int failing = !strcmp(call, fail_call) && fail_after-- <= 0 && fail_times-- > 0;
    pthread_mutex_unlock(&lock);
    return failing;
}

static context_t *find(rknn_context handle) {
    return handle >= 1 && handle <= MAX_CONTEXTS && contexts[handle - 1].used ? &contexts[handle - 1] : NULL;
}

static int type_of(const char *name) {
    return !strcmp(name, "int8") ? RKNN_TENSOR_INT8 : !strcmp(name, "float16") ? RKNN_TENSOR_FLOAT16 : RKNN_TENSOR_UINT8;
}

static int format_of(const char *name) {
    return !strcmp(name, "NCHW") ? RKNN_TENSOR_NCHW : !strcmp(name, "NHWC") ? RKNN_TENSOR_NHWC : RKNN_TENSOR_UNDEFINED;
}

static int parse(context_t *context, char *text) {
    if (strncmp(text, "fake-rknn\n", 10)) return MODEL_INVALID;
    char *rest = NULL;
    for (char *line = strtok_r(text + 10, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char name[RKNN_MAX_NAME_LEN], type[16], fmt[16];
        int h, w, c, stride, zp, c1, nh, nw, c2, native_stride, extra;
        float scale;
        if (sscanf(line, "input %d %d %d %d", &h, &w, &c, &stride) == 4) {
            input_t *input = &context->input;
            input->height = h, input->width = w, input->channels = c;
            rknn_tensor_attr *a = &input->attr;
            a->n_dims = 4, a->dims[0] = 1, a->dims[1] = h, a->dims[2] = w, a->dims[3] = c;
            strcpy(a->name, "images");
            a->n_elems = a->size = h * w * c;
            a->fmt = RKNN_TENSOR_NHWC, a->type = RKNN_TENSOR_INT8, a->qnt_type = RKNN_TENSOR_QNT_AFFINE_ASYMMETRIC;
            a->zp = -128, a->scale = 1.0f / 255, a->w_stride = stride;
            a->size_with_stride = h * (stride ? stride : w) * c;
        } else if (sscanf(line, "output %255s %d %d %d %f %d %15s %15s %d %d %d %d %d %d %d", name, &c, &h, &w, &scale, &zp,
                          type, fmt, &stride, &c1, &nh, &nw, &c2, &native_stride, &extra) == 15) {
            output_t *o = &context->output[context->n_output];
            o->channels = c, o->height = h, o->width = w, o->extra = extra;
            rknn_tensor_attr *a = &o->plain;
            strcpy(a->name, name);
            a->index = context->n_output, a->n_dims = 4, a->fmt = format_of(fmt), a->type = type_of(type);
            a->dims[0] = 1;
            if (a->fmt == RKNN_TENSOR_NHWC) a->dims[1] = h, a->dims[2] = w, a->dims[3] = c;
            else a->dims[1] = c, a->dims[2] = h, a->dims[3] = w;
            if (!strcmp(fmt, "FLAT")) a->n_dims = 3, a->dims[2] = h * w, a->dims[3] = 0;
            int bytes = a->type == RKNN_TENSOR_FLOAT16 ? 2 : 1;
            a->n_elems = c * h * w, a->size = a->n_elems * bytes;
            a->qnt_type = bytes == 2 ? RKNN_TENSOR_QNT_NONE : RKNN_TENSOR_QNT_AFFINE_ASYMMETRIC;
            a->zp = zp, a->scale = scale, a->w_stride = stride;
            a->size_with_stride = c * h * (stride ? stride : w) * bytes + extra;
            o->native = *a;
            rknn_tensor_attr *n = &o->native;
            n->n_dims = 5, n->fmt = RKNN_TENSOR_NC1HWC2;
            n->dims[0] = 1, n->dims[1] = c1, n->dims[2] = nh, n->dims[3] = nw, n->dims[4] = c2;
            n->w_stride = native_stride;
            n->n_elems = c1 * nh * nw * c2, n->size = n->n_elems * bytes;
            n->size_with_stride = c1 * nh * (native_stride ? native_stride : nw) * c2 * bytes + extra;
            context->n_output++;
        } else {
            return MODEL_INVALID;
        }
    }
    return 0;
}

static int take(rknn_context *handle, const context_t *model) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_CONTEXTS; i++) {
        if (contexts[i].used) continue;
        contexts[i] = *model;
        contexts[i].used = 1;
        *handle = i + 1;
        pthread_mutex_unlock(&lock);
        return 0;
    }
    pthread_mutex_unlock(&lock);
    return FAIL;
}

int rknn_init(rknn_context *handle, void *model, uint32_t size, uint32_t flag, void *extend) {
    char more[64];
    snprintf(more, sizeof more, "size=%u flag=%u extend=%d", size, flag, extend != NULL);
    if (chatter) printf("I RKNN: a line of the vendor's\n");
    if (record("rknn_init", more)) return fail_code;
    char *text = calloc(1, size + 1);
    memcpy(text, model, size);
    context_t *fresh = calloc(1, sizeof *fresh);
    int code = parse(fresh, text);
    if (!code) code = take(handle, fresh);
    free(fresh);
    free(text);
    return code;
}

int rknn_dup_context(rknn_context *from, rknn_context *to) {
    if (record("rknn_dup_context", "")) return fail_code;
    context_t *source = find(*from);
    if (!source) return CTX_INVALID;
    context_t *fresh = malloc(sizeof *fresh);
    *fresh = *source;
    fresh->ran = fresh->inside = 0, fresh->input.memory = NULL, fresh->input.copied = NULL;
    for (int i = 0; i < MAX_OUTPUTS; i++) fresh->output[i].memory = NULL, fresh->result[i] = NULL;
    int code = take(to, fresh);
    free(fresh);
    return code;
}

int rknn_destroy(rknn_context handle) {
    char more[32];
    snprintf(more, sizeof more, "%d", (int)handle);
    if (record("rknn_destroy", more)) return fail_code;
    context_t *context = find(handle);
    if (!context) return CTX_INVALID;
    overlaps += context->inside; /* destroyed under a running call */
    free(context->input.copied);
    for (int i = 0; i < MAX_OUTPUTS; i++) free(context->result[i]);
    memset(context, 0, sizeof *context);
    return 0;
}

int rknn_query(rknn_context handle, rknn_query_cmd command, void *info, uint32_t size) {
    char more[32];
    snprintf(more, sizeof more, "%d", (int)command);
    if (record("rknn_query", more)) return fail_code;
    context_t *context = find(handle);
    if (!context) return CTX_INVALID;
    if (command == RKNN_QUERY_IN_OUT_NUM) {
        rknn_input_output_num *answer = info;
        if (size != sizeof *answer) return PARAM_INVALID;
        answer->n_input = 1, answer->n_output = context->n_output;
        return 0;
    }
    if (command == RKNN_QUERY_SDK_VERSION) {
        rknn_sdk_version *answer = info;
        if (size != sizeof *answer) return PARAM_INVALID;
        strcpy(answer->api_version, "2.5.0 (fake)");
        strcpy(answer->drv_version, "0.9.8");
        return 0;
    }
    if (command == RKNN_QUERY_PERF_RUN) {
        rknn_perf_run *answer = info;
        if (size != sizeof *answer || !context->ran) return PARAM_INVALID;
        answer->run_duration = 7910 + context->ran;
        return 0;
    }
    rknn_tensor_attr *answer = info;
    if (size != sizeof *answer) return PARAM_INVALID;
    uint32_t index = answer->index;
    switch (command) {
    case RKNN_QUERY_INPUT_ATTR:
    case RKNN_QUERY_NATIVE_INPUT_ATTR:
        if (index) return PARAM_INVALID;
        *answer = context->input.attr;
        return 0;
    case RKNN_QUERY_OUTPUT_ATTR:
    case RKNN_QUERY_NATIVE_OUTPUT_ATTR:
        if (index >= (uint32_t)context->n_output) return PARAM_INVALID;
        *answer = command == RKNN_QUERY_OUTPUT_ATTR ? context->output[index].plain : context->output[index].native;
        answer->index = index;
        return 0;
    default:
        return PARAM_INVALID;
    }
}

int rknn_set_core_mask(rknn_context handle, rknn_core_mask mask) {
    char more[32];
    snprintf(more, sizeof more, "%d", mask);
    if (record("rknn_set_core_mask", more)) return fail_code;
    return find(handle) ? 0 : CTX_INVALID;
}

/* Memory: the CPU's copy at virt_addr, the device's in priv_data, each with a border behind it. */

rknn_tensor_mem *rknn_create_mem(rknn_context handle, uint32_t size) {
    char more[32];
    snprintf(more, sizeof more, "%u", size);
    if (record("rknn_create_mem", more) || !find(handle)) return NULL;
    rknn_tensor_mem *memory = calloc(1, sizeof *memory);
    memory->virt_addr = malloc(size + BORDER), memory->priv_data = malloc(size + BORDER);
    memset(memory->virt_addr, PATTERN, size + BORDER), memset(memory->priv_data, PATTERN, size + BORDER);
    memory->size = size, memory->fd = 7;
    __sync_fetch_and_add(&live_memories, 1);
    return memory;
}

static int border_broken(const uint8_t *bytes, uint32_t size) {
    for (int i = 0; i < BORDER; i++)
        if (bytes[size + i] != PATTERN) return 1;
    return 0;
}

int rknn_destroy_mem(rknn_context handle, rknn_tensor_mem *memory) {
    if (record("rknn_destroy_mem", "")) return fail_code;
    if (!find(handle)) return CTX_INVALID;
    broken_borders += border_broken(memory->virt_addr, memory->size) + border_broken(memory->priv_data, memory->size);
    /* Whoever still reads here sees it. */
    memset(memory->virt_addr, 0x5A, memory->size);
    free(memory->virt_addr), free(memory->priv_data), free(memory);
    __sync_fetch_and_sub(&live_memories, 1);
    return 0;
}

int rknn_set_io_mem(rknn_context handle, rknn_tensor_mem *memory, rknn_tensor_attr *attr) {
    char more[RKNN_MAX_NAME_LEN + 64];
    snprintf(more, sizeof more, "%s type=%d fmt=%d pass_through=%d", attr->name, attr->type, attr->fmt, attr->pass_through);
    if (record("rknn_set_io_mem", more)) return fail_code;
    context_t *context = find(handle);
    if (!context) return CTX_INVALID;
    if (!strcmp(attr->name, "images")) {
        if (attr->type != RKNN_TENSOR_UINT8 || attr->fmt != RKNN_TENSOR_NHWC || attr->pass_through) return INPUT_INVALID;
        if (memory->size < context->input.attr.size_with_stride) return INPUT_INVALID;
        context->input.memory = memory, context->input.bound = *attr;
        return 0;
    }
    if (attr->index >= (uint32_t)context->n_output) return PARAM_INVALID;
    output_t *output = &context->output[attr->index];
    if (strcmp(attr->name, output->plain.name)) return PARAM_INVALID;
    int native = attr->fmt == RKNN_TENSOR_NC1HWC2, wide = attr->type == RKNN_TENSOR_FLOAT32;
    if (!wide && attr->type != RKNN_TENSOR_INT8) return OUTPUT_INVALID;
    if (wide && (native || attr->size != 4 * attr->n_elems)) return OUTPUT_INVALID;
    if (!native && attr->fmt != output->plain.fmt) return OUTPUT_INVALID;
    uint32_t need = native ? output->native.size_with_stride : output->plain.size_with_stride;
    if (wide) need = 4 * output->channels * output->height * (attr->w_stride ? attr->w_stride : (uint32_t)output->width);
    if (memory->size < need) return OUTPUT_INVALID;
    output->memory = memory, output->bound = *attr;
    return 0;
}

int rknn_mem_sync(rknn_context handle, rknn_tensor_mem *memory, rknn_mem_sync_mode mode) {
    if (record("rknn_mem_sync", mode == RKNN_MEMORY_SYNC_TO_DEVICE ? "to" : "from")) return fail_code;
    if (!find(handle)) return CTX_INVALID;
    if (mode == RKNN_MEMORY_SYNC_TO_DEVICE) memcpy(memory->priv_data, memory->virt_addr, memory->size);
    else memcpy(memory->virt_addr, memory->priv_data, memory->size);
    return 0;
}

/* The network. */

static int integer(const context_t *context, const uint8_t *pixels, int stride, int o, int c, int y, int x) {
    const output_t *output = &context->output[o];
    int cell_h = context->input.height / output->height, cell_w = context->input.width / output->width;
    uint32_t sum = 7 * c + 13 * o + 31 * y + 17 * x;
    for (int i = 0; i < cell_h; i++)
        for (int j = 0; j < cell_w; j++) {
            const uint8_t *p = pixels + ((size_t)(y * cell_h + i) * stride + x * cell_w + j) * 3;
            sum += (1 * p[0] + 3 * p[1] + 5 * p[2]) * (1 + i * cell_w + j);
        }
    return (int)(sum % 256) - 128;
}

static float real(const output_t *output, int value) {
    return ((float)value - (float)output->plain.zp) * output->plain.scale;
}

static void compute(context_t *context, int o, const uint8_t *pixels, int stride) {
    output_t *output = &context->output[o];
    int c_n = output->channels, h_n = output->height, w_n = output->width;
    if (!output->memory) { /* the copying interface: plain integers, NCHW */
        if (!context->result[o]) context->result[o] = malloc((size_t)c_n * h_n * w_n);
        for (int c = 0; c < c_n; c++)
            for (int y = 0; y < h_n; y++)
                for (int x = 0; x < w_n; x++)
                    ((int8_t *)context->result[o])[(c * h_n + y) * w_n + x] = integer(context, pixels, stride, o, c, y, x);
        return;
    }
    const rknn_tensor_attr *a = &output->bound;
    uint8_t *bytes = output->memory->priv_data;
    int lanes = a->dims[4], rows = a->fmt == RKNN_TENSOR_NC1HWC2 ? (int)a->dims[2] : h_n;
    int pitch = a->w_stride ? (int)a->w_stride : a->fmt == RKNN_TENSOR_NC1HWC2 ? (int)a->dims[3] : w_n;
    for (int c = 0; c < c_n; c++)
        for (int y = 0; y < h_n; y++)
            for (int x = 0; x < w_n; x++) {
                size_t at;
                if (a->fmt == RKNN_TENSOR_NC1HWC2) at = (((size_t)(c / lanes) * rows + y) * pitch + x) * lanes + c % lanes;
                else if (a->fmt == RKNN_TENSOR_NHWC) at = ((size_t)y * pitch + x) * c_n + c;
                else at = ((size_t)c * h_n + y) * pitch + x;
                int value = integer(context, pixels, stride, o, c, y, x);
                if (a->type == RKNN_TENSOR_FLOAT32) ((float *)bytes)[at] = real(output, value);
                else ((int8_t *)bytes)[at] = value;
            }
}

int rknn_inputs_set(rknn_context handle, uint32_t count, rknn_input inputs[]) {
    if (record("rknn_inputs_set", "")) return fail_code;
    context_t *context = find(handle);
    if (!context) return CTX_INVALID;
    input_t *input = &context->input;
    uint32_t size = input->height * input->width * input->channels;
    if (count != 1 || inputs[0].index || inputs[0].size != size || inputs[0].pass_through) return INPUT_INVALID;
    if (inputs[0].type != RKNN_TENSOR_UINT8 || inputs[0].fmt != RKNN_TENSOR_NHWC) return INPUT_INVALID;
    if (!input->copied) input->copied = malloc(size);
    memcpy(input->copied, inputs[0].buf, size);
    return 0;
}

int rknn_run(rknn_context handle, void *extend) {
    if (record("rknn_run", extend ? "extend" : "")) return fail_code;
    context_t *context = find(handle);
    if (!context) return CTX_INVALID;
    if (__sync_fetch_and_add(&context->inside, 1)) __sync_fetch_and_add(&overlaps, 1);
    if (latency_us) usleep(latency_us);
    const rknn_tensor_attr *bound = &context->input.bound;
    const uint8_t *pixels = context->input.memory ? context->input.memory->priv_data : context->input.copied;
    int stride = context->input.memory && bound->w_stride ? (int)bound->w_stride : context->input.width;
    if (!pixels) return INPUT_INVALID;
    for (int o = 0; o < context->n_output; o++) compute(context, o, pixels, stride);
    context->ran++;
    __sync_fetch_and_sub(&context->inside, 1);
    return 0;
}

int rknn_outputs_get(rknn_context handle, uint32_t count, rknn_output outputs[], void *extend) {
    if (record("rknn_outputs_get", extend ? "extend" : "")) return fail_code;
    context_t *context = find(handle);
    if (!context) return CTX_INVALID;
    if (count != (uint32_t)context->n_output) return OUTPUT_INVALID;
    for (uint32_t i = 0; i < count; i++) {
        if (outputs[i].index != i || !outputs[i].is_prealloc) return OUTPUT_INVALID;
        output_t *output = &context->output[i];
        uint32_t n = output->channels * output->height * output->width;
        if (outputs[i].size != (outputs[i].want_float ? 4 * n : n)) return OUTPUT_INVALID;
        const int8_t *values = (const int8_t *)context->result[i];
        for (uint32_t k = 0; k < n; k++) {
            if (outputs[i].want_float) ((float *)outputs[i].buf)[k] = real(output, values[k]);
            else ((int8_t *)outputs[i].buf)[k] = values[k];
        }
    }
    return 0;
}

int rknn_outputs_release(rknn_context handle, uint32_t count, rknn_output outputs[]) {
    (void)outputs, (void)count;
    if (record("rknn_outputs_release", "")) return fail_code;
    return find(handle) ? 0 : CTX_INVALID;
}
