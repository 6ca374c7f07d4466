/* One patch forward and backward in bfloat16, for processors with AVX-512 and its bfloat16 products: the other one of
 * the two products that kernel.c can be built with, for F channels and one SCALE. All that is special to it is here.
 *
 * Numbers: activations, gradients of activations and the small weights are bfloat16, sums are float32. What is
 * added, clipped or compared in image space is float32. The short residual and the identity stay outside the rounded
 * weights. The input enters as two bfloat16 numbers, exact to 16 bits.
 *
 * Layout: channels last. A buffer holds (patch + 4)² pixels: a border of two zeros, which is the padding.
 * VDPBF16PS multiplies pairs: pairs of input channels in a convolution, pairs of neighbouring pixels in a weight
 * gradient; `interleave` brings pixels into pairs.
 *
 * To read it: `run_patch` at the end, then `forward` and `backward`, then what they call, from top to bottom. */

#include <immintrin.h>

#define BLOCKS ((F + 15) / 16)    /* vectors of 16 floats that hold a pixel's channels */
#define WIDE (16 * BLOCKS)        /* channels of a pixel as stored */
#define USED ((F + 7) / 8 * 8)    /* channels that are multiplied */
#define SUBPIXELS (SCALE * SCALE) /* channels of the output */
#define TILE (16 / BLOCKS)        /* pixels that a convolution computes at once: 16 sums in registers */
#define BORDER 2

typedef uint16_t bf16;

struct Room {
    float *base;                                   /* (patch², 1): what the tail's result is added to */
    float *target, *output;                        /* (patch², SUBPIXELS) */
    bf16 *input;                                   /* (pixels, 2): high and low part of luma - 0.5 */
    bf16 **features, **before;                     /* m + 1 outputs of blocks; m inputs of PReLUs */
    bf16 *sum, *sum_grad, *output_grad, *grad[2];  /* of the long skip; of the output; of a block's output */
    bf16 *lanes, *even, *odd;                      /* pixel pairs, see interleave */
    float *total;                                  /* the gradients that a patch's are added to */
};

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
    if (value != value) return 0x7fc0; /* rounding could make a number of it */
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
                    UNROLL for (int t = 0; t < tile; t++) {
                        const bf16 *pair = at + c + t / across * row + t % across * step * stride;
                        sum[t * blocks + b] = multiply_pairs(sum[t * blocks + b], w, pair_everywhere(pair));
                    }
                }
            }
        }
}

INLINE long row_of(const Job *job) { return job->patch + 2 * BORDER; }
INLINE long pixels_of(const Job *job) { return row_of(job) * row_of(job); }
INLINE long pixel(const Job *job, long y, long x) { return (y + BORDER) * row_of(job) + x + BORDER; }

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
        long place = WIDE * pixel(job, y, x);
        UNROLL for (int i = 0; i < TILE * BLOCKS; i++) {
            store_bf16(room->features[0] + place + 16 * i, sum[i]);
            if (job->blocks == 0) store_bf16(room->sum + place + 16 * i, _mm512_add_ps(sum[i], sum[i])); /* see below */
        }
    }
}

/* Block `index` with its residual and PReLU. After the last one the long skip is added for the tail: that is the head's
 * output, which without a block is added to itself. */
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
            value = _mm512_fmadd_ps(slope, _mm512_min_ps(zero, value), _mm512_max_ps(zero, value));
            store_bf16(room->features[index + 1] + at, value);
            if (index == job->blocks - 1)
                store_bf16(room->sum + at, _mm512_add_ps(value, load_bf16(room->features[0] + at)));
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
            conv_tile(sum, room->sum + WIDE * pixel(job, y - 2, x - 2), row, layer->forward, 5, 8, WIDE, USED,
                      8, 4, 4, 1);
            UNROLL for (int i = 0; i < 8; i++)
                _mm512_storeu_ps(room->output + 4 * ((y + i / 4) * job->patch + x + i % 4 * 4), sum[i]);
        }
#else
    FOR_TILES(job, 16) {
        __m512 sum[16] = {0};
        conv_tile(sum, room->sum + WIDE * pixel(job, y - 2, x - 2), row, layer->forward, 5, 5, WIDE, USED,
                  16, 16, 1, 1);
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
    float *slope = team->slope + prelu * WIDE, *total = room->total + team->slope_grad + prelu * WIDE;
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

static void head_gradient(const Team *team, const Room *room, const bf16 *grad)
{
    const Job *job = team->job;
    interleave(grad, room->lanes, pixels_of(job), WIDE);
    pair_up(job, room, room->input, 2);
    weight_gradient(job, room, room->total, 5, 2, 2, 0);
}

static void body_gradient(const Team *team, const Room *room, long index, const bf16 *grad)
{
    const Job *job = team->job;
    interleave(grad, room->lanes, pixels_of(job), WIDE);
    pair_up(job, room, room->features[index], WIDE);
    weight_gradient(job, room, room->total + team->layers[1 + index].grad, 3, WIDE, 8, 0);
}

static void tail_gradient(const Team *team, const Room *room)
{
    const Job *job = team->job;
    interleave(room->sum, room->lanes, pixels_of(job), WIDE);
    pair_up(job, room, room->output_grad, SUBPIXELS);
    weight_gradient(job, room, room->total + team->layers[job->blocks + 1].grad, 5, SUBPIXELS, 4, 1);
}

/* ---- one patch ---- */

/* The patch at `where` (row, width, symmetry): the network's input, what its result is added to, target. */
static void cut(const Job *job, const int64_t *where, const Room *room)
{
    const int64_t *order = job->order + where[2] * SUBPIXELS;
    Walk walk = walk_of(job, where);
    float level = (float)job->level;
    for (long y = 0; y < job->patch; y++)
        for (long x = 0; x < job->patch; x++) {
            const int16_t *from = job->rows + (walk.start + y * walk.down + x * walk.right) * (1 + SUBPIXELS);
            long place = y * job->patch + x;
            float luma = (float)from[0] * level;
            bf16 *input = room->input + 2 * pixel(job, y, x);
            input[0] = round_bf16(luma - 0.5f);
            input[1] = round_bf16(luma - 0.5f - widen(input[0]));
            room->base[place] = job->input_residual ? luma : (float)job->offset;
            for (int c = 0; c < SUBPIXELS; c++) room->target[place * SUBPIXELS + c] = (float)from[1 + order[c]] * level;
        }
}

/* The patch's absolute error; leaves the error's sign, its gradient, in output_grad. */
static double compare(const Job *job, const Room *room)
{
    const __m512i subpixel = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i spread = _mm512_srli_epi32(subpixel, SCALE == 2 ? 2 : 4);
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1);
    __m512 loss = zero;
    for (long y = 0; y < job->patch; y++)
        for (long x = 0; x < job->patch; x += 16 / SUBPIXELS) {
            long place = y * job->patch + x, left = (job->patch - x) * SUBPIXELS;
            __mmask16 inside = left >= 16 ? 0xffff : (__mmask16)((1 << left) - 1);
            __m512 base = _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(_mm_loadu_ps(room->base + place)));
            __m512 value = _mm512_add_ps(_mm512_loadu_ps(room->output + place * SUBPIXELS), base);
            if (job->clip_output) {
                inside &= _mm512_cmp_ps_mask(value, zero, _CMP_GE_OQ) & _mm512_cmp_ps_mask(value, one, _CMP_LE_OQ);
                value = _mm512_min_ps(one, _mm512_max_ps(zero, value)); /* the second, if one is NaN */
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
    return _mm512_reduce_add_ps(loss);
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
    tail_gradient(team, room);
    backward_layer(team, room, job->blocks + 1, room->output_grad, grad, 5, SUBPIXELS, SUBPIXELS);
    for (long index = job->blocks - 1; index >= 0; index--) {
        body_gradient(team, room, index, grad);
        backward_layer(team, room, 1 + index, grad, next, 3, WIDE, USED);
        bf16 *swap = grad;
        grad = next;
        next = swap;
    }
    head_gradient(team, room, grad);
}

/* One patch from its place to its gradients, which are added to the total; returns its absolute error. */
static double run_patch(const Team *team, Room *room, const int64_t *where, float *total)
{
    room->total = total;
    cut(team->job, where, room);
    forward(team, room);
    double loss = compare(team->job, room);
    backward(team, room);
    return loss;
}

/* ---- small weights ---- */

static long slope_row(const Job *job) { return (void)job, WIDE; }
static int is_head(const Layer *layer) { return layer->expand == 0; }
static int is_tail(const Layer *layer) { return layer->kernel == 5 && !is_head(layer); }
static long packed_size(const Layer *layer, long inputs, long outputs)
{
    return (void)layer, (void)inputs, (void)outputs, 40 * WIDE * WIDE;
}
static long gradient_size(const Layer *layer)
{
    return layer->kernel * layer->kernel * (is_head(layer) ? 2 : is_tail(layer) ? SUBPIXELS : WIDE) * WIDE;
}

/* Puts one small weight where conv_tile wants it, both ways. */
static void pack_tap(const Layer *layer, long tap, long input, long output)
{
    long k = layer->kernel, taps = k * k;
    bf16 value = round_bf16(layer->small[output * layer->stride + input * taps + tap]);
    if (is_head(layer)) { /* both parts of the input meet the same weight */
        layer->forward[(tap * WIDE + output) * 2] = layer->forward[(tap * WIDE + output) * 2 + 1] = value;
        return;
    }
    int tail = is_tail(layer);
#if SCALE == 2
    if (tail)
        for (long j = 0; j < 4; j++)
            layer->forward[(((tap / k * 8 + tap % k + j) * USED / 2 + input / 2) * 16 + j * 4 + output) * 2 + input % 2] =
                value;
    else
#endif
        layer->forward[((tap * USED / 2 + input / 2) * (tail ? 16 : WIDE) + output) * 2 + input % 2] = value;
    long pairs = (tail ? SUBPIXELS : USED) / 2;
    layer->backward[(((taps - 1 - tap) * pairs + output / 2) * WIDE + input) * 2 + output % 2] = value;
}

static void pack(const Layer *layer, long output, long input)
{
    for (long tap = 0; tap < layer->kernel * layer->kernel; tap++) pack_tap(layer, tap, input, output);
}

/* The gradients (k, k) of the weights from one input to one output, out of what weight_gradient left. */
static void unpack(const Layer *layer, const float *total, long output, long input, float *taps)
{
    for (long tap = 0; tap < layer->kernel * layer->kernel; tap++) {
        if (is_head(layer)) taps[tap] = total[tap * 2 * WIDE + output] + total[(tap * 2 + 1) * WIDE + output];
        else if (is_tail(layer)) taps[tap] = total[(tap * SUBPIXELS + output) * WIDE + input];
        else taps[tap] = total[(tap * WIDE + input) * WIDE + output];
    }
}

/* ---- memory ---- */

static void set_room(const Job *job, Room *room, Arena *arena)
{
    size_t pixels = (size_t)pixels_of(job), wide = pixels * WIDE * 2, area = (size_t)(job->patch * job->patch);
    size_t features = (size_t)job->blocks + 1;
    room->base = take(arena, area * 4);
    room->target = take(arena, area * SUBPIXELS * 4);
    room->output = take(arena, area * SUBPIXELS * 4);
    room->input = take(arena, pixels * 4);
    room->output_grad = take(arena, pixels * SUBPIXELS * 2);
    bf16 **single[] = {&room->sum,   &room->sum_grad, &room->grad[0], &room->grad[1],
                       &room->lanes, &room->even,     &room->odd};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++) *single[i] = take(arena, wide);
    room->features = take(arena, features * sizeof(bf16 *));
    room->before = take(arena, features * sizeof(bf16 *));
    for (size_t i = 0; i < features; i++) {
        bf16 *output = take(arena, wide), *before = take(arena, i < features - 1 ? wide : 0);
        if (arena->start) {
            room->features[i] = output;
            room->before[i] = before;
        }
    }
}
