/* Training steps of a collapsed SESR network on the CPU, whole: crops, forward, backward, Adam, average.
 *
 * Why it exists: a SESR activation has 16 or 32 channels, so a library's convolution spends its time moving
 * activations through memory. Here one thread carries one patch through the whole network and back while its
 * activations stay in that core's cache. Compiled once per (F, SCALE) by kernel.py, which explains the settings.
 *
 * Numbers: activations, gradients of activations and the small weights are bfloat16, sums are float32. What is
 * added, clipped or compared in image space is float32, and so are parameters and Adam. The short residual and
 * the identity stay outside the rounded weights. The input enters as two bfloat16 numbers, exact to 16 bits.
 *
 * Layout: channels last. A buffer holds (patch + 4)² pixels: a border of two zeros, which is the padding.
 * VDPBF16PS multiplies pairs: pairs of input channels in a convolution, pairs of neighbouring pixels in a weight
 * gradient; `interleave` brings pixels into pairs. */

#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS ((F + 15) / 16)    /* vectors of 16 floats that hold a pixel's channels */
#define WIDE (16 * BLOCKS)        /* channels of a pixel as stored */
#define USED ((F + 7) / 8 * 8)    /* channels that are multiplied */
#define SUBPIXELS (SCALE * SCALE) /* channels of the output */
#define TILE (16 / BLOCKS)        /* pixels that a convolution computes at once: 16 sums in registers */
#define BORDER 2
#define SPINS 4000                /* pauses before a waiting thread sleeps */
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

typedef uint16_t bf16;

typedef struct {
    int64_t blocks, feature_size, patch, batch, threads; /* blocks: the paper's m */
    int64_t amsgrad, clip_output;
    double beta1, beta2, eps, clip_norm, ema_decay; /* clip_norm and ema_decay: 0 means none */
    double pace[4];                                 /* what the rate is multiplied with: head, body, tail, slopes */
    const int16_t *rows;                            /* PatchPool.rows */
    double level;                                   /* value of one step of rows */
    const int64_t *corners;                         /* (8, 3, 2): where pixels (0,0), (0,1), (1,0) come from */
    const int64_t *order;                           /* (8, SUBPIXELS): where a target's channel comes from */
    float *weights, *moment, *second, *largest, *average; /* all parameters: head, body, tail, slopes */
} Job;

/* One linear block's place in the flat parameters, and its small convolution. */
typedef struct {
    long expand, project, inputs, outputs, kernel;
    float *small, *small_grad; /* (outputs, inputs, k, k) */
    bf16 *forward, *backward;  /* the same, packed for conv_tile */
} Layer;

/* What one thread works in. */
typedef struct {
    float *luma, *target, *output;                 /* (patch², 1), (patch², SUBPIXELS) twice */
    bf16 *input;                                   /* (pixels, 2): high and low part of luma - 0.5 */
    bf16 **features, **before;                     /* m + 1 outputs of blocks; m inputs of PReLUs */
    bf16 *sum, *sum_grad, *output_grad, *grad[2];  /* of the long skip; of the output; of a block's output */
    bf16 *lanes, *even, *odd;                      /* pixel pairs, see interleave */
    float **weight_grad, *slope_grad;              /* by layer, as weight_gradient leaves it; (m, WIDE) */
    double loss, norm;
} Room;

typedef struct {
    const Job *job;
    long first, steps;
    const int64_t *plan;
    const double *rates;
    float *losses;
    long parameters, slopes, layer_count; /* slopes: their place in the flat parameters */
    Layer *layers;                        /* head, body, tail */
    float *grad, *slope;                  /* slope: (m, WIDE) */
    Room *rooms;
    atomic_int waiting, phase, signal; /* signal: 0 until all threads stand ready */
    pthread_mutex_t lock;
    pthread_cond_t turned;
} Team;

/* ---- numbers ---- */

INLINE __m512 load_bf16(const bf16 *at)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16));
}

INLINE void store_bf16(bf16 *at, __m512 value) { _mm256_storeu_si256((void *)at, (__m256i)_mm512_cvtneps_pbh(value)); }

INLINE bf16 round_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE float widen(bf16 value)
{
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

INLINE __m512 pair_everywhere(const bf16 *at)
{
    int pair;
    memcpy(&pair, at, 4);
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
}

INLINE __m512 multiply_pairs(__m512 sum, __m512 a, __m512 b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* ---- convolutions ---- */

/* Adds to sum[tile · blocks] a k_h × k_w convolution at `tile` places: `across` of them `step` pixels apart, then
 * the next row. `in` is the window's first pixel; weights are (k_h, k_w, channels / 2, 16 · blocks, 2). */
INLINE void conv_tile(__m512 *sum, const bf16 *in, long row, const bf16 *weights, int k_h, int k_w, int stride,
                      int channels, int tile, int across, int step, int blocks)
{
    for (int dy = 0; dy < k_h; dy++)
        for (int dx = 0; dx < k_w; dx++) {
            const bf16 *at = in + dy * row + dx * stride;
            for (int c = 0; c < channels; c += 2, weights += 32 * blocks) {
                UNROLL for (int b = 0; b < blocks; b++) {
                    __m512 w = _mm512_loadu_ps(weights + 32 * b);
                    UNROLL for (int t = 0; t < tile; t++) sum[t * blocks + b] = multiply_pairs(
                        sum[t * blocks + b], w, pair_everywhere(at + c + t / across * row + t % across * step * stride));
                }
            }
        }
}

INLINE long row_of(const Job *job) { return job->patch + 2 * BORDER; }
INLINE long pixels_of(const Job *job) { return row_of(job) * row_of(job); }
INLINE long pixel(const Job *job, long y, long x) { return (y + BORDER) * row_of(job) + x + BORDER; }
INLINE long least(long a, long b) { return a < b ? a : b; }

/* Rows are cut into tiles; the last one overlaps the one before it where the patch is not a multiple. */
#define FOR_TILES(job, tile) \
    for (long y = 0; y < (job)->patch; y++) \
        for (long fresh = 0, x = 0; fresh < (job)->patch; fresh += (tile), x = least(fresh, (job)->patch - (tile)))

static void forward_head(const Job *job, const Layer *layer, const Room *room)
{
    FOR_TILES(job, TILE) {
        __m512 sum[TILE * BLOCKS] = {0};
        conv_tile(sum, room->input + 2 * pixel(job, y - 2, x - 2), 2 * row_of(job), layer->forward, 5, 5, 2, 2,
                  TILE, TILE, 1, BLOCKS);
        bf16 *out = room->features[0] + WIDE * pixel(job, y, x);
        UNROLL for (int i = 0; i < TILE * BLOCKS; i++) store_bf16(out + 16 * i, sum[i]);
    }
}

/* Block `index` with its residual and PReLU. After the last one the long skip is added for the tail. */
static void forward_body(const Team *team, const Room *room, long index)
{
    const Job *job = team->job;
    const bf16 *in = room->features[index];
    FOR_TILES(job, TILE) {
        __m512 sum[TILE * BLOCKS] = {0};
        conv_tile(sum, in + WIDE * pixel(job, y - 1, x - 1), WIDE * row_of(job), team->layers[1 + index].forward,
                  3, 3, WIDE, USED, TILE, TILE, 1, BLOCKS);
        long place = WIDE * pixel(job, y, x);
        UNROLL for (int i = 0; i < TILE * BLOCKS; i++) {
            long at = place + 16 * i;
            __m512 value = _mm512_add_ps(sum[i], load_bf16(in + at)), zero = _mm512_setzero_ps();
            __m512 slope = _mm512_loadu_ps(team->slope + index * WIDE + i % BLOCKS * 16);
            store_bf16(room->before[index] + at, value);
            value = _mm512_fmadd_ps(slope, _mm512_min_ps(value, zero), _mm512_max_ps(value, zero));
            store_bf16(room->features[index + 1] + at, value);
            if (index == job->blocks - 1) store_bf16(room->sum + at, _mm512_add_ps(value, load_bf16(room->features[0] + at)));
        }
    }
}

/* At scale 2 a vector holds four neighbouring pixels' four outputs, over a window of 5 + 3 columns. */
static void forward_tail(const Job *job, const Layer *layer, const Room *room)
{
    long row = WIDE * row_of(job);
#if SCALE == 2
    for (long y = 0; y < job->patch; y += 2)
        for (long fresh = 0, x = 0; fresh < job->patch; fresh += 16, x = least(fresh, job->patch - 16)) {
            __m512 sum[8] = {0};
            conv_tile(sum, room->sum + WIDE * pixel(job, y - 2, x - 2), row, layer->forward, 5, 8, WIDE, USED, 8, 4, 4, 1);
            UNROLL for (int i = 0; i < 8; i++)
                _mm512_storeu_ps(room->output + 4 * ((y + i / 4) * job->patch + x + i % 4 * 4), sum[i]);
        }
#else
    FOR_TILES(job, 16) {
        __m512 sum[16] = {0};
        conv_tile(sum, room->sum + WIDE * pixel(job, y - 2, x - 2), row, layer->forward, 5, 5, WIDE, USED, 16, 16, 1, 1);
        UNROLL for (int i = 0; i < 16; i++) _mm512_storeu_ps(room->output + 16 * (y * job->patch + x + i), sum[i]);
    }
#endif
}

/* A PReLU's input gradient from its output gradient; adds the slope's gradient where `count` says it is new. */
INLINE __m512 backward_prelu(__m512 grad, __m512 before, __m512 slope, __m512 *slope_grad, int count)
{
    __mmask16 below = _mm512_cmp_ps_mask(before, _mm512_setzero_ps(), _CMP_LE_OQ);
    if (count) *slope_grad = _mm512_mask3_fmadd_ps(grad, before, *slope_grad, below);
    return _mm512_mask_mul_ps(grad, below, grad, slope);
}

/* Gradient of the block before layer `index`: k × k convolution of `grad` with the turned weights, then the PReLU. */
INLINE void backward_layer(const Team *team, Room *room, long index, const bf16 *grad, bf16 *out, int k, int stride,
                           int channels)
{
    const Job *job = team->job;
    long prelu = index - 2; /* the PReLU that feeds this layer; -1: the head feeds it */
    int tail = index == job->blocks + 1, r = k / 2;
    float *slope = team->slope + prelu * WIDE, *total = room->slope_grad + prelu * WIDE;
    __m512 slope_grad[BLOCKS] = {0};
    FOR_TILES(job, TILE) {
        __m512 sum[TILE * BLOCKS] = {0};
        conv_tile(sum, grad + stride * pixel(job, y - r, x - r), stride * row_of(job), team->layers[index].backward,
                  k, k, stride, channels, TILE, TILE, 1, BLOCKS);
        long place = WIDE * pixel(job, y, x);
        UNROLL for (int i = 0; i < TILE * BLOCKS; i++) {
            long at = place + 16 * i;
            int b = i % BLOCKS;
            __m512 value = sum[i];
            if (k == 3) value = _mm512_add_ps(value, load_bf16(grad + at)); /* the short residual */
            if (tail) store_bf16(room->sum_grad + at, value);
            if (prelu < 0)
                value = _mm512_add_ps(value, load_bf16(room->sum_grad + at)); /* the long skip */
            else
                value = backward_prelu(value, load_bf16(room->before[prelu] + at), _mm512_loadu_ps(slope + 16 * b),
                                       &slope_grad[b], x + i / BLOCKS >= fresh);
            store_bf16(out + at, value);
        }
    }
    if (prelu >= 0)
        for (int b = 0; b < BLOCKS; b++)
            _mm512_storeu_ps(total + 16 * b, _mm512_add_ps(_mm512_loadu_ps(total + 16 * b), slope_grad[b]));
}

/* ---- gradients of weights ---- */

/* Pixels (p, p + 1) of `in` side by side, channel by channel: out is (pixels / 2, channels, 2). */
INLINE void interleave(const bf16 *in, bf16 *out, long pixels, int channels)
{
    int together = channels < 16 ? channels : 16;
    uint16_t index[32];
    for (int e = 0; e < 32; e++)
        index[e] = (uint16_t)(e / (2 * together) * 2 * together + e % 2 * together + e % (2 * together) / 2);
    __m512i turn = _mm512_loadu_si512(index);
    if (channels <= 16)
        for (long at = 0; at < pixels * channels; at += 32)
            _mm512_storeu_si512(out + at, _mm512_permutexvar_epi16(turn, _mm512_loadu_si512(in + at)));
    else
        for (long at = 0; at < pixels * channels; at += 2 * channels)
            for (int c = 0; c < channels; c += 16) {
                __m256i first = _mm256_loadu_si256((const void *)(in + at + c));
                __m256i next = _mm256_loadu_si256((const void *)(in + at + channels + c));
                __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), next, 1);
                _mm512_storeu_si512(out + at + 2 * c, _mm512_permutexvar_epi16(turn, both));
            }
}

/* Adds to total (k, k, channels, WIDE) the sum over pixels p of room->lanes[p] · other[p + offset]. The offset of
 * tap d is d - k/2, or its opposite if `turned`; `other` lies interleaved in room->even and room->odd. */
INLINE void weight_gradient(const Job *job, const Room *room, float *total, int k, int channels, int group, int turned)
{
    long row = row_of(job) / 2; /* in pairs */
    for (int dy = 0; dy < k; dy++)
        for (int c = 0; c < channels; c += group)
            for (int b = 0; b < BLOCKS; b++) {
                __m512 sum[5 * 8] = {0};
                for (long y = 0; y < job->patch; y++) {
                    const bf16 *lane = room->lanes + ((y + BORDER) * row + BORDER / 2) * 2 * WIDE + 32 * b;
                    long other = (y + (turned ? k - 1 - dy : dy) + BORDER - k / 2) * row;
                    for (long x = 0; x < job->patch / 2; x++) {
                        __m512 pair = _mm512_loadu_ps(lane + x * 2 * WIDE);
                        UNROLL for (int dx = 0; dx < k; dx++) {
                            int offset = (turned ? k - 1 - dx : dx) + BORDER - k / 2;
                            const bf16 *at = (offset % 2 ? room->odd : room->even) +
                                             (other + x + offset / 2) * 2 * channels + 2 * c;
                            UNROLL for (int g = 0; g < group; g++) sum[dx * group + g] =
                                multiply_pairs(sum[dx * group + g], pair, pair_everywhere(at + 2 * g));
                        }
                    }
                }
                UNROLL for (int i = 0; i < k * group; i++) {
                    float *at = total + ((dy * k + i / group) * channels + c + i % group) * WIDE + 16 * b;
                    _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), sum[i]));
                }
            }
}

INLINE void pair_up(const Job *job, const Room *room, const bf16 *other, int channels)
{
    interleave(other, room->even, pixels_of(job), channels);
    interleave(other + channels, room->odd, pixels_of(job), channels);
}

static void head_gradient(const Job *job, Room *room, const bf16 *grad)
{
    interleave(grad, room->lanes, pixels_of(job), WIDE);
    pair_up(job, room, room->input, 2);
    weight_gradient(job, room, room->weight_grad[0], 5, 2, 2, 0);
}

static void body_gradient(const Job *job, Room *room, long index, const bf16 *grad)
{
    interleave(grad, room->lanes, pixels_of(job), WIDE);
    pair_up(job, room, room->features[index], WIDE);
    weight_gradient(job, room, room->weight_grad[1 + index], 3, WIDE, 8, 0);
}

static void tail_gradient(const Job *job, Room *room)
{
    interleave(room->sum, room->lanes, pixels_of(job), WIDE);
    pair_up(job, room, room->output_grad, SUBPIXELS);
    weight_gradient(job, room, room->weight_grad[job->blocks + 1], 5, SUBPIXELS, 4, 1);
}

/* ---- one patch ---- */

/* The patch at `where` (row, width, symmetry): luma, target, and the network's input. */
static void cut(const Job *job, const int64_t *where, const Room *room)
{
    const int64_t *corner = job->corners + where[2] * 6, *order = job->order + where[2] * SUBPIXELS;
    long start = where[0] + corner[0] * where[1] + corner[1];
    long right = where[0] + corner[2] * where[1] + corner[3] - start;
    long down = where[0] + corner[4] * where[1] + corner[5] - start;
    float level = (float)job->level;
    for (long y = 0; y < job->patch; y++)
        for (long x = 0; x < job->patch; x++) {
            const int16_t *from = job->rows + (start + y * down + x * right) * (1 + SUBPIXELS);
            long place = y * job->patch + x;
            float luma = (float)from[0] * level;
            bf16 *input = room->input + 2 * pixel(job, y, x);
            input[0] = round_bf16(luma - 0.5f);
            input[1] = round_bf16(luma - 0.5f - widen(input[0]));
            room->luma[place] = luma;
            for (int c = 0; c < SUBPIXELS; c++) room->target[place * SUBPIXELS + c] = (float)from[1 + order[c]] * level;
        }
}

/* Adds the patch's absolute error to the loss; leaves the error's sign, its gradient, in output_grad. */
static void compare(const Job *job, Room *room)
{
    const __m512i subpixel = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i spread = _mm512_srli_epi32(subpixel, SCALE == 2 ? 2 : 4);
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1);
    __m512 loss = zero;
    for (long y = 0; y < job->patch; y++)
        for (long x = 0; x < job->patch; x += 16 / SUBPIXELS) {
            long place = y * job->patch + x, left = (job->patch - x) * SUBPIXELS;
            __mmask16 inside = left >= 16 ? 0xffff : (__mmask16)((1 << left) - 1);
            __m512 luma = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(_mm_loadu_ps(room->luma + place)));
            __m512 value = _mm512_add_ps(_mm512_loadu_ps(room->output + place * SUBPIXELS), luma);
            if (job->clip_output) {
                inside &= _mm512_cmp_ps_mask(value, zero, _CMP_GE_OQ) & _mm512_cmp_ps_mask(value, one, _CMP_LE_OQ);
                value = _mm512_min_ps(_mm512_max_ps(value, zero), one);
            }
            __mmask16 counted = left >= 16 ? 0xffff : (__mmask16)((1 << left) - 1);
            __m512 error = _mm512_sub_ps(value, _mm512_loadu_ps(room->target + place * SUBPIXELS));
            loss = _mm512_mask_add_ps(loss, counted, loss, _mm512_abs_ps(error));
            __mmask16 up = inside & _mm512_cmp_ps_mask(error, zero, _CMP_GT_OQ);
            __mmask16 under = inside & _mm512_cmp_ps_mask(error, zero, _CMP_LT_OQ);
            __m512 sign = _mm512_mask_sub_ps(_mm512_maskz_mov_ps(up, one), under, zero, one);
            bf16 *at = room->output_grad + SUBPIXELS * pixel(job, y, x);
            _mm256_mask_storeu_epi16(at, counted, (__m256i)_mm512_cvtneps_pbh(sign));
        }
    room->loss += _mm512_reduce_add_ps(loss);
}

static void forward(const Team *team, Room *room)
{
    const Job *job = team->job;
    forward_head(job, &team->layers[0], room);
    for (long index = 0; index < job->blocks; index++) forward_body(team, room, index);
    forward_tail(job, &team->layers[job->blocks + 1], room);
}

static void backward(const Team *team, Room *room)
{
    const Job *job = team->job;
    bf16 *grad = room->grad[0], *next = room->grad[1];
    tail_gradient(job, room);
    backward_layer(team, room, job->blocks + 1, room->output_grad, grad, 5, SUBPIXELS, SUBPIXELS);
    for (long index = job->blocks - 1; index >= 0; index--) {
        body_gradient(job, room, index, grad);
        backward_layer(team, room, 1 + index, grad, next, 3, WIDE, USED);
        bf16 *swap = grad;
        grad = next;
        next = swap;
    }
    head_gradient(job, room, grad);
}

/* ---- collapse ---- */

INLINE __mmask16 first_columns(long count) { return count >= 16 ? 0xffff : (__mmask16)((1 << count) - 1); }

/* Puts one small weight where the packed forms want it. */
INLINE void pack(const Layer *layer, long tap, long input, long output, int is_head, int is_tail)
{
    long k = layer->kernel, taps = k * k;
    bf16 value = round_bf16(layer->small[(output * layer->inputs + input) * taps + tap]);
    if (is_head) { /* both parts of the input meet the same weight */
        layer->forward[(tap * WIDE + output) * 2] = layer->forward[(tap * WIDE + output) * 2 + 1] = value;
        return;
    }
#if SCALE == 2
    if (is_tail)
        for (long j = 0; j < 4; j++)
            layer->forward[(((tap / k * 8 + tap % k + j) * USED / 2 + input / 2) * 16 + j * 4 + output) * 2 + input % 2] = value;
    else
#endif
        layer->forward[((tap * USED / 2 + input / 2) * (is_tail ? 16 : WIDE) + output) * 2 + input % 2] = value;
    long pairs = (is_tail ? SUBPIXELS : USED) / 2;
    layer->backward[(((taps - 1 - tap) * pairs + output / 2) * WIDE + input) * 2 + output % 2] = value;
}

/* W₂W₁ in columns column … column + 15 for `group` output channels from `first` on, packed. */
INLINE void collapse_columns(const Team *team, long l, long column, long first, int group)
{
    const Job *job = team->job;
    const Layer *layer = &team->layers[l];
    long taps = layer->kernel * layer->kernel, size = layer->inputs * taps, width = job->feature_size;
    const float *expand = job->weights + layer->expand + column;
    const float *project = job->weights + layer->project + first * width;
    __mmask16 inside = first_columns(size - column);
    __m512 sum[16] = {0};
    for (long p = 0; p < width; p++) {
        __m512 row = _mm512_maskz_loadu_ps(inside, expand + p * size);
        UNROLL for (int o = 0; o < group; o++)
            sum[o] = _mm512_fmadd_ps(row, _mm512_set1_ps(project[o * width + p]), sum[o]);
    }
    UNROLL for (int o = 0; o < group; o++)
        _mm512_mask_storeu_ps(layer->small + (first + o) * size + column, inside, sum[o]);
    for (long j = column; j < size && j < column + 16; j++)
        for (long o = first; o < first + group; o++) pack(layer, j % taps, j / taps, o, l == 0, l == team->layer_count - 1);
}

INLINE void collapse_layer(const Team *team, long l, long *unit, long thread, int outputs)
{
    long size = team->layers[l].inputs * team->layers[l].kernel * team->layers[l].kernel;
    for (long column = 0; column < size; column += 16)
        if ((*unit)++ % team->job->threads == thread) {
            for (int o = 0; o + 16 <= outputs; o += 16) collapse_columns(team, l, column, o, 16);
            if (outputs % 16) collapse_columns(team, l, column, outputs / 16 * 16, outputs % 16);
        }
}

/* This thread's share of the small convolutions, and the slopes. */
static void collapse(const Team *team, long thread)
{
    const Job *job = team->job;
    long unit = 0;
    for (long l = 0; l < team->layer_count - 1; l++) collapse_layer(team, l, &unit, thread, F);
    collapse_layer(team, team->layer_count - 1, &unit, thread, SUBPIXELS);
    for (long i = thread; i < job->blocks * F; i += job->threads)
        team->slope[i / F * WIDE + i % F] = job->weights[team->slopes + i];
}

/* Sums the threads' weight gradients, as means over the batch's subpixels: (outputs, inputs, k, k). */
static void gather_gradients(const Team *team, long thread)
{
    const Job *job = team->job;
    float mean = 1.0f / (float)(job->batch * job->patch * job->patch * SUBPIXELS);
    for (long l = 0; l < team->layer_count; l++) {
        const Layer *layer = &team->layers[l];
        long taps = layer->kernel * layer->kernel;
        int is_head = l == 0, is_tail = l == team->layer_count - 1;
        for (long i = thread; i < layer->outputs * layer->inputs; i += job->threads) {
            long output = i / layer->inputs, input = i % layer->inputs;
            for (long tap = 0; tap < taps; tap++) {
                float sum = 0;
                for (long t = 0; t < job->threads; t++) {
                    const float *from = team->rooms[t].weight_grad[l];
                    if (is_head) sum += from[(tap * 2) * WIDE + output] + from[(tap * 2 + 1) * WIDE + output];
                    else if (is_tail) sum += from[(tap * SUBPIXELS + output) * WIDE + input];
                    else sum += from[(tap * WIDE + input) * WIDE + output];
                }
                layer->small_grad[i * taps + tap] = sum * mean;
            }
        }
    }
    for (long i = thread; i < job->blocks * F; i += job->threads) {
        float sum = 0;
        for (long t = 0; t < job->threads; t++) sum += team->rooms[t].slope_grad[i / F * WIDE + i % F];
        team->grad[team->slopes + i] = sum * mean;
    }
}

/* Row p of W₁'s gradient gets the part of `group` output channels from `first` on; column p of W₂'s, all of it.
 * Returns the sum of W₂'s squares, and that of W₁'s once the last channels are in. */
INLINE double backward_row(const Team *team, const Layer *layer, long p, long first, int group, int last)
{
    const Job *job = team->job;
    long size = layer->inputs * layer->kernel * layer->kernel, width = job->feature_size;
    const float *row = job->weights + layer->expand + p * size, *small = layer->small_grad + first * size;
    const float *project = job->weights + layer->project + first * width + p;
    float *out = team->grad + layer->expand + p * size, *out_project = team->grad + layer->project + first * width + p;
    __m512 dot[16] = {0}, squares = _mm512_setzero_ps();
    for (long column = 0; column < size; column += 16) {
        __mmask16 inside = first_columns(size - column);
        __m512 weight = _mm512_maskz_loadu_ps(inside, row + column);
        __m512 sum = first ? _mm512_maskz_loadu_ps(inside, out + column) : _mm512_setzero_ps();
        UNROLL for (int o = 0; o < group; o++) {
            __m512 grad = _mm512_maskz_loadu_ps(inside, small + o * size + column);
            dot[o] = _mm512_fmadd_ps(weight, grad, dot[o]);
            sum = _mm512_fmadd_ps(grad, _mm512_set1_ps(project[o * width]), sum);
        }
        squares = _mm512_fmadd_ps(sum, sum, squares);
        _mm512_mask_storeu_ps(out + column, inside, sum);
    }
    double norm = last ? _mm512_reduce_add_ps(squares) : 0;
    UNROLL for (int o = 0; o < group; o++) {
        float value = _mm512_reduce_add_ps(dot[o]);
        out_project[o * width] = value;
        norm += (double)value * value;
    }
    return norm;
}

INLINE double backward_rows(const Team *team, const Layer *layer, long thread, int outputs)
{
    long width = team->job->feature_size, threads = team->job->threads, full = outputs / 16 * 16;
    double norm = 0;
    for (long p = width * thread / threads; p < width * (thread + 1) / threads; p++) {
        for (int o = 0; o < full; o += 16) norm += backward_row(team, layer, p, o, 16, o + 16 == outputs);
        if (outputs % 16) norm += backward_row(team, layer, p, full, outputs % 16, 1);
    }
    return norm;
}

/* Gradients of this thread's share of W₁ and W₂; returns the sum of their squares, slopes included. */
static double backward_collapse(const Team *team, long thread)
{
    const Job *job = team->job;
    double norm = 0;
    for (long l = 0; l < team->layer_count - 1; l++) norm += backward_rows(team, &team->layers[l], thread, F);
    norm += backward_rows(team, &team->layers[team->layer_count - 1], thread, SUBPIXELS);
    for (long i = thread; i < job->blocks * F; i += job->threads)
        norm += (double)team->grad[team->slopes + i] * team->grad[team->slopes + i];
    return norm;
}

/* ---- Adam ---- */

typedef struct {
    float shrink, pace, unbias, keep, b1, b2, eps;
} Move;

/* Parameters from … to - 1 move as torch.optim.Adam moves them, and their average follows. */
static void update_range(const Job *job, const float *restrict grad, Move move, long from, long to)
{
    float *restrict weights = job->weights, *restrict moment = job->moment, *restrict second = job->second;
    float *restrict largest = job->largest, *restrict average = job->average;
    for (long i = from; i < to; i++) {
        float g = grad[i] * move.shrink;
        moment[i] += (1 - move.b1) * (g - moment[i]);
        second[i] = move.b2 * second[i] + (1 - move.b2) * g * g;
    }
    if (job->amsgrad)
        for (long i = from; i < to; i++) {
            largest[i] = largest[i] > second[i] ? largest[i] : second[i];
            weights[i] -= move.pace * moment[i] / (sqrtf(largest[i]) * move.unbias + move.eps);
        }
    else
        for (long i = from; i < to; i++)
            weights[i] -= move.pace * moment[i] / (sqrtf(second[i]) * move.unbias + move.eps);
    if (move.keep > 0)
        for (long i = from; i < to; i++) average[i] += move.keep * (weights[i] - average[i]);
}

/* Moves this thread's share of the parameters, in pieces that stay in the nearest cache. */
static void update(const Team *team, long thread, long step, double rate)
{
    const Job *job = team->job;
    double norm = 0, count = (double)(team->first + step + 1);
    for (long t = 0; t < job->threads; t++) norm += team->rooms[t].norm;
    double limit = job->clip_norm / (sqrt(norm) + 1e-6);
    Move move = {
        .shrink = job->clip_norm > 0 && limit < 1 ? (float)limit : 1,
        .unbias = (float)(1 / sqrt(1 - pow(job->beta2, count))),
        .keep = job->ema_decay > 0 ? (float)(1 - job->ema_decay) : 0,
        .b1 = (float)job->beta1,
        .b2 = (float)job->beta2,
        .eps = (float)job->eps,
    };
    const long ends[] = {team->layers[1].expand, team->layers[team->layer_count - 1].expand, team->slopes,
                         team->parameters};
    for (long piece = thread * 1024, part = 0; piece < team->parameters; piece += 1024 * job->threads)
        for (long from = piece, to; from < least(piece + 1024, team->parameters); from = to) {
            while (from >= ends[part]) part++;
            to = least(least(piece + 1024, team->parameters), ends[part]);
            move.pace = (float)(rate * job->pace[part] / (1 - pow(job->beta1, count)));
            update_range(job, team->grad, move, from, to);
        }
}

/* ---- threads ---- */

/* All threads meet here. Who waits spins for some microseconds, as the others are at work on their cores; where other
 * processes want these cores too, it then sleeps, for a spinning thread would keep the core from the one it waits for. */
static void meet(Team *team)
{
    int phase = atomic_load(&team->phase);
    if (atomic_fetch_add(&team->waiting, 1) == team->job->threads - 1) {
        atomic_store(&team->waiting, 0);
        pthread_mutex_lock(&team->lock);
        atomic_store(&team->phase, phase + 1);
        pthread_cond_broadcast(&team->turned);
        pthread_mutex_unlock(&team->lock);
        return;
    }
    for (long spins = 0; spins < SPINS; spins++, _mm_pause())
        if (atomic_load(&team->phase) != phase) return;
    pthread_mutex_lock(&team->lock);
    while (atomic_load(&team->phase) == phase) pthread_cond_wait(&team->turned, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

static long grad_size(const Layer *layer, int is_head, int is_tail)
{
    return layer->kernel * layer->kernel * (is_head ? 2 : is_tail ? SUBPIXELS : WIDE) * WIDE;
}

static void run_patches(Team *team, long thread, const int64_t *plan)
{
    const Job *job = team->job;
    Room *room = &team->rooms[thread];
    room->loss = 0;
    memset(room->slope_grad, 0, (size_t)(job->blocks * WIDE) * 4);
    for (long l = 0; l < team->layer_count; l++)
        memset(room->weight_grad[l], 0, (size_t)grad_size(&team->layers[l], l == 0, l == team->layer_count - 1) * 4);
    for (long n = job->batch * thread / job->threads; n < job->batch * (thread + 1) / job->threads; n++) {
        cut(job, plan + 4 * n, room);
        forward(team, room);
        compare(job, room);
        backward(team, room);
    }
}

enum { GO = 1, GIVE_UP = 2 };

typedef struct {
    Team *team;
    long thread;
} Member;

static void *work(void *argument)
{
    Team *team = ((Member *)argument)->team;
    long thread = ((Member *)argument)->thread;
    const Job *job = team->job;
    while (!atomic_load(&team->signal)) sched_yield();
    if (atomic_load(&team->signal) == GIVE_UP) return NULL;
    for (long step = 0; step < team->steps; step++) {
        collapse(team, thread);
        meet(team);
        run_patches(team, thread, team->plan + step * job->batch * 4);
        meet(team);
        gather_gradients(team, thread);
        meet(team);
        team->rooms[thread].norm = backward_collapse(team, thread);
        if (thread == 0) {
            double loss = 0;
            for (long t = 0; t < job->threads; t++) loss += team->rooms[t].loss;
            team->losses[step] = (float)(loss / (double)(job->batch * job->patch * job->patch * SUBPIXELS));
        }
        meet(team);
        update(team, thread, step, team->rates[step]);
        meet(team);
    }
    return NULL;
}

/* ---- memory ---- */

/* Hands out zeroed, aligned pieces; with no memory behind it, it only counts. */
typedef struct {
    char *start;
    size_t used;
} Arena;

static void *take(Arena *arena, size_t bytes)
{
    void *piece = arena->start ? arena->start + arena->used : NULL;
    arena->used += (bytes + 128 + 63) / 64 * 64; /* 128: vectors may read past the end */
    return piece;
}

static void set_layers(Team *team, Arena *arena)
{
    const Job *job = team->job;
    long width = job->feature_size, in_head = 25 * width, in_block = 9 * F * width;
    long body = in_head + F * width, tail = body + job->blocks * (in_block + F * width);
    for (long l = 0; l < team->layer_count; l++) {
        int is_head = l == 0, is_tail = l == team->layer_count - 1;
        Layer layer = {.inputs = is_head ? 1 : F, .outputs = is_tail ? SUBPIXELS : F, .kernel = is_head || is_tail ? 5 : 3};
        long taps = layer.kernel * layer.kernel, size = layer.inputs * layer.outputs * taps;
        layer.expand = is_head ? 0 : is_tail ? tail : body + (l - 1) * in_block;
        layer.project = is_head   ? in_head
                        : is_tail ? tail + 25 * F * width
                                  : body + job->blocks * in_block + (l - 1) * F * width;
        layer.small = take(arena, (size_t)size * 4);
        layer.small_grad = take(arena, (size_t)size * 4);
        layer.forward = take(arena, (size_t)(40 * WIDE * WIDE * 2));
        layer.backward = take(arena, (size_t)(25 * WIDE * WIDE * 2));
        if (team->layers) team->layers[l] = layer;
    }
    team->slopes = tail + (25 * F + SUBPIXELS) * width;
    team->parameters = team->slopes + job->blocks * F;
}

static void set_room(const Team *team, Room *room, Arena *arena)
{
    const Job *job = team->job;
    size_t pixels = (size_t)pixels_of(job), wide = pixels * WIDE * 2, area = (size_t)(job->patch * job->patch);
    size_t features = (size_t)job->blocks + 1;
    room->luma = take(arena, area * 4);
    room->target = take(arena, area * SUBPIXELS * 4);
    room->output = take(arena, area * SUBPIXELS * 4);
    room->input = take(arena, pixels * 4);
    room->output_grad = take(arena, pixels * SUBPIXELS * 2);
    bf16 **single[] = {&room->sum, &room->sum_grad, &room->grad[0], &room->grad[1], &room->lanes, &room->even, &room->odd};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++) *single[i] = take(arena, wide);
    bf16 **features_at = take(arena, features * sizeof(bf16 *)), **before_at = take(arena, features * sizeof(bf16 *));
    float **grads_at = take(arena, (features + 1) * sizeof(float *));
    for (size_t i = 0; i < features; i++) {
        bf16 *output = take(arena, wide), *before = take(arena, i < features - 1 ? wide : 0);
        if (arena->start) {
            features_at[i] = output;
            before_at[i] = before;
        }
    }
    for (size_t l = 0; l <= features; l++) {
        float *grad = take(arena, (size_t)25 * WIDE * WIDE * 4);
        if (arena->start) grads_at[l] = grad;
    }
    room->features = features_at;
    room->before = before_at;
    room->weight_grad = grads_at;
    room->slope_grad = take(arena, (size_t)(job->blocks * WIDE) * 4);
}

static void set_team(Team *team, Arena *arena)
{
    const Job *job = team->job;
    team->layers = take(arena, (size_t)team->layer_count * sizeof(Layer));
    team->rooms = take(arena, (size_t)job->threads * sizeof(Room));
    team->slope = take(arena, (size_t)(job->blocks * WIDE) * 4);
    set_layers(team, arena);
    team->grad = take(arena, (size_t)team->parameters * 4);
    Room counted;
    for (long t = 0; t < job->threads; t++) set_room(team, arena->start ? &team->rooms[t] : &counted, arena);
}

/* Cuts `count` patches and drops them: what the data costs, for the benchmark. Returns as sesr_run does. */
int sesr_cut(const Job *job, int64_t count, const int64_t *plan)
{
    Team team = {.job = job, .layer_count = job->blocks + 2};
    Arena arena = {0};
    set_team(&team, &arena);
    arena.start = aligned_alloc(64, arena.used);
    if (!arena.start) return 1;
    arena.used = 0;
    set_team(&team, &arena);
    for (int64_t n = 0; n < count; n++) cut(job, plan + 4 * n, &team.rooms[0]);
    free(arena.start);
    return 0;
}

/* Runs `steps` steps after `first` earlier ones. plan is (steps, batch, 4), rates and losses are (steps,).
 * Returns 0, or 1 where memory or threads ran out before anything was changed. */
int sesr_run(const Job *job, int64_t first, int64_t steps, const int64_t *plan, const double *rates, float *losses)
{
    Team team = {.job = job, .first = first, .steps = steps, .plan = plan, .rates = rates, .losses = losses,
                 .layer_count = job->blocks + 2, .lock = PTHREAD_MUTEX_INITIALIZER,
                 .turned = PTHREAD_COND_INITIALIZER};
    Arena arena = {0};
    set_team(&team, &arena);
    arena.start = aligned_alloc(64, arena.used);
    if (!arena.start) return 1;
    memset(arena.start, 0, arena.used);
    arena.used = 0;
    set_team(&team, &arena);
    Member members[job->threads];
    pthread_t threads[job->threads];
    long started = 1;
    for (long t = 0; t < job->threads; t++) members[t] = (Member){&team, t};
    while (started < job->threads && !pthread_create(&threads[started], NULL, work, &members[started])) started++;
    int failed = started < job->threads;
    atomic_store(&team.signal, failed ? GIVE_UP : GO);
    if (!failed) work(&members[0]);
    for (long t = 1; t < started; t++) pthread_join(threads[t], NULL);
    free(arena.start);
    return failed;
}
