/* One patch forward and backward in float32, on any processor: one of the two products that kernel.c can be built with.
 *
 * Layout: channels first. A picture of height × width pixels lies in a plane of rows that are width + 2 long; the two
 * zeros at a row's end are the right border of this row and the left border of the next, and rows of zeros lie above
 * and below. A vector holds neighbouring pixels.
 *
 * A k × k convolution is done by Winograd's method along columns (Lavin and Gray, arXiv 1509.09308): a band of output
 * rows depends on six input rows; both are brought to six points, where single rows are convolved with single rows.
 * For k = 3 a band is 4 rows, and 6 products of rows do the work of 12; for k = 5 it is 2 rows, and 6 do that of 10.
 *
 *     input planes --to_points (Bᵀ)--> points --multiply--> points --from_points (Aᵀ)--> output planes
 *     6 rows, from 1 or 2 above          6 rows, each convolved with its          a band: 4 or 2 rows
 *     the band to 1 or 2 below it        own row of weights (G, see `pack`)
 *
 * Backward, an input's gradient is the same convolution with the weights turned. A weight's gradient is, at each point,
 * the correlation of the input's points with those of the output's gradient (gradient_to_points, A). It is summed over
 * patches as six rows of weights, and brought back to k rows once a step (`unpack`, Gᵀ).
 *
 * Pictures are worked on in strips of bands, so small that a strip's points stay in the second cache. */

#define QUAD 4 /* outputs that are computed at once */
#define POINTS 6
#if LANES == 8 || !(defined __AVX512F__ || defined __aarch64__)
#define SIDE 3 /* vectors of places that are computed at once: QUAD * SIDE sums and what feeds them, in 16 registers */
#else
#define SIDE 6 /* in 32 registers */
#endif
#define TILE (SIDE * LANES)
#define STRIP 288   /* places of a strip, or a little less: with 16 channels its points are 110 KB */
#define ABOVE 2     /* rows of zeros above a picture */
#define BELOW 4     /* and below it, where the last band may be incomplete */
#define MARGIN 16   /* zeros before a row of points */
#define ROW_TAPS 3  /* columns of weights whose gradients are summed at once */

/* Where a picture's pixels lie, and how long a row of points is in memory. */
typedef struct {
    long height, width, row, plane, points;
} Shape;

/* Planes are given by their first pixel, rows of points by their first place. */
struct Room {
    Shape shape;
    long share, shares;            /* of the strips of a picture that several threads work on: every shares-th */
    float *input, *base;           /* a plane of luma - 0.5; what the tail's result is added to: luma or the offset */
    float *target, *output;        /* (scale²) planes; the output becomes its own gradient */
    float *before;                 /* (m + 1, F) planes: the head's output, then what each PReLU gets; see block_of */
    float *sum, *sum_grad;         /* (F) planes: what the tail gets, and its gradient */
    float *grad[2];                /* (F) planes: the gradient of a block's output */
    float *in_points, *out_points; /* (POINTS, channels) rows */
};

INLINE long band_of(int k) { return POINTS + 1 - k; }
INLINE long bands_of(const Shape *s, int k) { return (s->height + band_of(k) - 1) / band_of(k); }
INLINE long wide_of(const Shape *s, int k) { return s->width + k / 2; } /* places of a band: its columns and zeros */
INLINE long strip_of(const Shape *s, int k) { return STRIP > wide_of(s, k) ? STRIP / wide_of(s, k) : 1; }

/* Planes and rows of points begin at different places of the caches' sets. */
INLINE long odd_lines(long floats) { return (floats + 15) / 16 * 16 + ((floats + 15) / 16 % 2 ? 0 : 16); }

static Shape shape_of(long height, long width)
{
    Shape s = {.height = height, .width = width, .row = width + 2};
    long places = strip_of(&s, 3) * wide_of(&s, 3), others = strip_of(&s, 5) * wide_of(&s, 5);
    s.plane = odd_lines((ABOVE + height + BELOW) * s.row + MARGIN);
    s.points = odd_lines(MARGIN + multiple(places > others ? places : others, TILE) + MARGIN);
    return s;
}

/* Rows are cut into vectors; the last one overlaps the one before it where the row is not a multiple. */
#define FOR_VECTORS(x, count) \
    for (long fresh = 0, x = 0; fresh < (count); fresh += LANES, x = least(fresh, (count) - LANES))

/* ---- the convolution ---- */

INLINE vec prelu(vec value, float slope) { return choose(value > 0, value, value * slope); }

/* `bands` bands of `count` planes at six points, through PReLUs with the given slopes, or none. */
INLINE void to_points(const Shape *s, const float *planes, const float *slopes, long count, long first, long bands,
                      float *points, int k)
{
    long wide = wide_of(s, k), next = count * s->points;
    for (long c = 0; c < count; c++)
        for (long t = 0; t < bands; t++) {
            const float *in = planes + c * s->plane + ((first + t) * band_of(k) - k / 2) * s->row;
            float *out = points + c * s->points + t * wide;
            FOR_VECTORS(x, wide) {
                vec d[POINTS];
                UNROLL for (int j = 0; j < POINTS; j++) d[j] = load(in + j * s->row + x);
                if (slopes)
                    UNROLL for (int j = 0; j < POINTS; j++) d[j] = prelu(d[j], slopes[c]);
                vec even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1], outer = d[4] - d[2], inner = 2 * (d[3] - d[1]);
                store(out + x, 4 * d[0] - 5 * d[2] + d[4]);
                store(out + x + next, even + odd);
                store(out + x + 2 * next, even - odd);
                store(out + x + 3 * next, outer + inner);
                store(out + x + 4 * next, outer - inner);
                store(out + x + 5 * next, 4 * d[1] - 5 * d[3] + d[5]);
            }
        }
}

/* Each point's rows, `inputs` of them, convolved with rows of k weights: `outputs` rows. Weights are (POINTS, outputs /
 * QUAD, inputs, k, QUAD), with zeros for the outputs that are missing in the last quad. */
INLINE void multiply(const Shape *s, const float *in, long inputs, const float *weights, float *out, long outputs,
                     long places, int k)
{
    outputs = multiple(outputs, QUAD);
    for (long point = 0; point < POINTS; point++, in += inputs * s->points, out += outputs * s->points)
        for (long at = 0; at < places; at += TILE)
            for (long o = 0; o < outputs; o += QUAD) {
                const float *weight = weights + (point * outputs + o) * inputs * k;
                vec sum[QUAD * SIDE] = {0};
                for (long c = 0; c < inputs; c++)
                    _Pragma("GCC unroll 1") for (int dx = 0; dx < k; dx++, weight += QUAD) {
                        const float *from = in + c * s->points + at + dx - k / 2;
                        vec row[SIDE];
                        UNROLL for (int i = 0; i < SIDE; i++) row[i] = load_once(from + i * LANES);
                        UNROLL for (int q = 0; q < QUAD; q++)
                            UNROLL for (int i = 0; i < SIDE; i++) sum[q * SIDE + i] += weight[q] * row[i];
                    }
                UNROLL for (int q = 0; q < QUAD; q++)
                    UNROLL for (int i = 0; i < SIDE; i++)
                        store(out + (o + q) * s->points + at + i * LANES, sum[q * SIDE + i]);
            }
}

/* What is added to a convolution's output: planes `next` apart (0: the same for all), through PReLUs or not. */
typedef struct {
    const float *planes, *slopes;
    long next;
} Residual;

/* Bands of `count` planes from their points, with the residual added. */
INLINE void from_points(const Shape *s, const float *points, long count, long first, long bands, Residual add,
                        float *planes, int k)
{
    long band = band_of(k), wide = wide_of(s, k), next = multiple(count, QUAD) * s->points;
    for (long c = 0; c < count; c++)
        for (long t = 0; t < bands; t++) {
            const float *in = points + c * s->points + t * wide;
            long place = (first + t) * band * s->row, rows = least(band, s->height - (first + t) * band);
            FOR_VECTORS(x, s->width) {
                vec p0 = load(in + x), p1 = load(in + x + next), p2 = load(in + x + 2 * next);
                vec p3 = load(in + x + 3 * next), p4 = load(in + x + 4 * next), p5 = load(in + x + 5 * next);
                vec near = p1 + p2, far = p3 + p4, turned = p1 - p2, turned_far = p3 - p4, row[4];
                row[0] = p0 + near + far;
                row[1] = turned + 2 * turned_far;
                row[2] = near + 4 * far;
                row[3] = turned + 8 * turned_far;
                row[band - 1] += p5;
                UNROLL for (int j = 0; j < 4; j++) {
                    if (j >= rows) break;
                    long at = place + j * s->row + x;
                    if (add.planes) {
                        vec more = load(add.planes + c * add.next + at);
                        row[j] += add.slopes ? prelu(more, add.slopes[c]) : more;
                    }
                    store(planes + c * s->plane + at, row[j]);
                }
            }
        }
}

/* out = residual + convolution of the `inputs` planes in, through their PReLUs. */
INLINE void convolve_by(const Room *room, const float *in, const float *slopes, long inputs, const float *weights,
                        float *out, long outputs, Residual add, int k)
{
    const Shape *s = &room->shape;
    long step = strip_of(s, k), all = bands_of(s, k);
    for (long first = step * room->share; first < all; first += step * room->shares) {
        long bands = least(step, all - first);
        to_points(s, in, slopes, inputs, first, bands, room->in_points, k);
        multiply(s, room->in_points, inputs, weights, room->out_points, outputs, bands * wide_of(s, k), k);
        from_points(s, room->out_points, outputs, first, bands, add, out, k);
    }
}

static void convolve(const Room *room, const float *in, const float *slopes, long inputs, const float *weights,
                     float *out, long outputs, Residual add, int k)
{
    if (k == 3) convolve_by(room, in, slopes, inputs, weights, out, outputs, add, 3);
    else convolve_by(room, in, slopes, inputs, weights, out, outputs, add, 5);
}

/* ---- gradients of weights ---- */

/* Bands of the gradient of an output's `count` planes at six points; zeros follow, as far as a vector reaches. */
INLINE void gradient_to_points(const Shape *s, const float *planes, long count, long first, long bands, float *points,
                               int k)
{
    long wide = wide_of(s, k), next = multiple(count, QUAD) * s->points;
    for (long c = 0; c < count; c++) {
        float *out = points + c * s->points;
        for (long t = 0; t < bands; t++, out += wide) {
            const float *in = planes + c * s->plane + (first + t) * band_of(k) * s->row;
            FOR_VECTORS(x, wide) {
                vec g0 = load(in + x), g1 = load(in + s->row + x), g2 = {0}, g3 = {0};
                if (k == 3) {
                    g2 = load(in + 2 * s->row + x);
                    g3 = load(in + 3 * s->row + x);
                }
                vec even = g0 + g2, odd = g1 + g3, far_even = g0 + 4 * g2, far_odd = 2 * g1 + 8 * g3;
                store(out + x, g0);
                store(out + x + next, even + odd);
                store(out + x + 2 * next, even - odd);
                store(out + x + 3 * next, far_even + far_odd);
                store(out + x + 4 * next, far_even - far_odd);
                store(out + x + 5 * next, k == 3 ? g3 : g1);
            }
        }
        for (int point = 0; point < POINTS; point++) store(out + point * next, (vec){0});
    }
}

/* Adds to total (QUAD for each of `taps` columns) the sums over places of grad[o] · in[place + column]. */
INLINE void correlate_rows(const Shape *s, const float *in, const float *grad, long places, float *total, int taps)
{
    vec sum[ROW_TAPS * QUAD] = {0};
    for (long at = 0; at < places; at += LANES) {
        vec row[ROW_TAPS];
        UNROLL for (int dx = 0; dx < taps; dx++) row[dx] = load_once(in + at + dx);
        UNROLL for (int q = 0; q < QUAD; q++) {
            vec other = load_once(grad + q * s->points + at);
            UNROLL for (int dx = 0; dx < taps; dx++) sum[dx * QUAD + q] += other * row[dx];
        }
    }
    UNROLL for (int dx = 0; dx < taps; dx++) add_sums(sum + dx * QUAD, total + dx * QUAD);
}

/* Adds a layer's weight gradient to total, which lies as its packed weights do. */
INLINE void weight_gradient_by(const Room *room, const float *in, const float *slopes, long inputs, const float *grad,
                               long outputs, float *total, int k)
{
    const Shape *s = &room->shape;
    long step = strip_of(s, k), all = bands_of(s, k), quads = multiple(outputs, QUAD);
    for (long first = 0; first < all; first += step) {
        long bands = least(step, all - first), places = bands * wide_of(s, k);
        to_points(s, in, slopes, inputs, first, bands, room->in_points, k);
        gradient_to_points(s, grad, outputs, first, bands, room->out_points, k);
        for (long point = 0; point < POINTS; point++)
            for (long o = 0; o < quads; o += QUAD)
                for (long c = 0; c < inputs; c++) {
                    const float *rows = room->in_points + (point * inputs + c) * s->points - k / 2;
                    const float *others = room->out_points + (point * quads + o) * s->points;
                    float *to = total + ((point * quads + o) * inputs + c * QUAD) * k;
                    correlate_rows(s, rows, others, places, to, ROW_TAPS);
                    if (k > ROW_TAPS)
                        correlate_rows(s, rows + ROW_TAPS, others, places, to + ROW_TAPS * QUAD, k - ROW_TAPS);
                }
    }
}

static void weight_gradient(const Room *room, const float *in, const float *slopes, long inputs, const float *grad,
                            long outputs, float *total, int k)
{
    if (k == 3) weight_gradient_by(room, in, slopes, inputs, grad, outputs, total, 3);
    else weight_gradient_by(room, in, slopes, inputs, grad, outputs, total, 5);
}

/* ---- small weights ---- */

static const float SCALES[POINTS] = {1 / 4.0f, -1 / 6.0f, -1 / 6.0f, 1 / 24.0f, 1 / 24.0f, 1};
static const float PLACES[POINTS] = {0, 1, -1, 2, -2, 0}; /* the last point is infinity: it sees the last row alone */

/* What row `row` of k weights counts at a point: G. */
INLINE float share(int point, int row, int k)
{
    if (point == POINTS - 1) return row == k - 1;
    float power = SCALES[point];
    for (int i = 0; i < row; i++) power *= PLACES[point];
    return power;
}

/* One column of weights at six points, QUAD · places apart. */
INLINE void column_to_points(const float *column, int step, float *out, long next, int k)
{
    for (int point = 0; point < POINTS; point++) {
        float sum = 0;
        for (int row = 0; row < k; row++) sum += share(point, row, k) * column[row * step];
        out[point * next] = sum;
    }
}

static long packed_size(const Layer *layer, long inputs, long outputs)
{
    return POINTS * multiple(outputs, QUAD) * inputs * layer->kernel;
}

static long gradient_size(const Layer *layer) { return packed_size(layer, layer->inputs, layer->outputs); }

/* Puts the k × k small weights from one input to one output where `multiply` wants them, both ways. */
INLINE void pack_taps(const Layer *layer, long output, long input, int k)
{
    long inputs = layer->inputs, outputs = layer->outputs;
    const float *small = layer->small + output * layer->stride + input * k * k;
    for (int dx = 0; dx < k; dx++) {
        float *forward = layer->forward + ((output / QUAD * inputs + input) * k + dx) * QUAD + output % QUAD;
        float *backward = layer->backward + ((input / QUAD * outputs + output) * k + k - 1 - dx) * QUAD + input % QUAD;
        column_to_points(small + dx, k, forward, multiple(outputs, QUAD) * inputs * k, k);
        column_to_points(small + dx + (k - 1) * k, -k, backward, multiple(inputs, QUAD) * outputs * k, k);
    }
}

static void pack(const Layer *layer, long output, long input)
{
    if (layer->kernel == 3) pack_taps(layer, output, input, 3);
    else pack_taps(layer, output, input, 5);
}

/* The gradients (k, k) of the weights from one input to one output, out of what weight_gradient left. */
static void unpack(const Layer *layer, const float *total, long output, long input, float *taps)
{
    int k = (int)layer->kernel;
    long next = multiple(layer->outputs, QUAD) * layer->inputs * k;
    for (int dy = 0; dy < k; dy++)
        for (int dx = 0; dx < k; dx++) {
            const float *from = total + ((output / QUAD * layer->inputs + input) * k + dx) * QUAD + output % QUAD;
            float sum = 0;
            for (int point = 0; point < POINTS; point++) sum += share(point, dy, k) * from[point * next];
            taps[dy * k + dx] = sum;
        }
}

/* ---- one patch ---- */

static long slope_row(const Job *job) { return job->features; }

/* The patch at `where` (row, width, symmetry): the network's input, what its result is added to, target. */
static void cut(const Job *job, const int64_t *where, const Room *room)
{
    const Shape *s = &room->shape;
    long subpixels = job->scale * job->scale;
    const int64_t *order = job->order + where[2] * subpixels;
    Walk walk = walk_of(job, where);
    float level = (float)job->level;
    for (long y = 0; y < job->patch; y++)
        for (long x = 0; x < job->patch; x++) {
            const int16_t *from = job->rows + (walk.start + y * walk.down + x * walk.right) * (1 + subpixels);
            long at = y * s->row + x;
            float luma = (float)from[0] * level;
            room->input[at] = luma - 0.5f;
            room->base[at] = job->input_residual ? luma : (float)job->offset;
            for (long c = 0; c < subpixels; c++) room->target[c * s->plane + at] = (float)from[1 + order[c]] * level;
        }
}

static int trains(const Team *team) { return team->picture == NULL; }

/* The planes of block l's output, where 0 is the head. Forward only, each block takes the place of the one before
 * the one before it; the head's stay for the long skip. */
static float *block_of(const Team *team, const Room *room, long l)
{
    return room->before + (trains(team) || l == 0 ? l : 1 + l % 2) * team->job->features * room->shape.plane;
}

/* From room->input to room->output. Where threads share a picture, they wait for each other's strips. */
static void forward(Team *team, const Room *room)
{
    const Job *job = team->job;
    const Shape *s = &room->shape;
    long features = job->features;
    const float *slopes = NULL, *block = block_of(team, room, 0);
    convolve(room, room->input, NULL, 1, team->layers[0].forward, room->before, features, (Residual){0}, 5);
    if (room->shares > 1) meet(team);
    for (long l = 1; l <= job->blocks; l++) {
        Residual add = {block, slopes, s->plane};
        float *next = block_of(team, room, l);
        convolve(room, block, slopes, features, team->layers[l].forward, next, features, add, 3);
        if (room->shares > 1) meet(team);
        slopes = team->slope + (l - 1) * features;
        block = next;
    }
    for (long c = room->share; c < features; c += room->shares)
        for (long at = c * s->plane; at < c * s->plane + s->height * s->row; at += LANES) {
            vec value = load(block + at);
            if (slopes) value = prelu(value, slopes[c]);
            store(room->sum + at, value + load(room->before + at));
        }
    if (room->shares > 1) meet(team);
    convolve(room, room->sum, NULL, features, team->layers[job->blocks + 1].forward, room->output,
             job->scale * job->scale, (Residual){room->base, NULL, 0}, 5);
    if (room->shares > 1) meet(team);
}

/* The patch's absolute error; its gradient, the error's sign, takes the output's place. */
static double compare(const Job *job, const Room *room)
{
    const Shape *s = &room->shape;
    double loss = 0;
    for (long c = 0; c < job->scale * job->scale; c++) {
        vec sum = {0};
        for (long at = 0; at < s->height * s->row; at += LANES) {
            vec value = load(room->output + c * s->plane + at), zero = {0}, one = zero + 1;
            mask outside = job->clip_output ? (value < 0) | (value > 1) : (mask){0};
            if (job->clip_output) value = choose(value > 1, one, choose(value < 0, zero, value));
            vec error = value - load(room->target + c * s->plane + at);
            sum += choose(error < 0, -error, error);
            vec sign = choose(error > 0, one, choose(error < 0, -one, zero));
            store(room->output + c * s->plane + at, choose(outside, zero, sign));
        }
        loss += total_of(sum);
    }
    return loss;
}

/* PReLUs' input gradients in place of their output gradients; adds those of their slopes. */
static void backward_prelu(const Shape *s, const float *before, const float *slopes, long count, float *grad,
                           float *slope_grad)
{
    for (long c = 0; c < count; c++) {
        vec sum = {0};
        for (long at = c * s->plane; at < c * s->plane + s->height * s->row; at += LANES) {
            vec value = load(before + at), above = load(grad + at);
            sum += choose(value > 0, (vec){0}, value * above);
            store(grad + at, choose(value > 0, above, above * slopes[c]));
        }
        slope_grad[c] += total_of(sum);
    }
}

static void copy_planes(const Shape *s, const float *from, long count, float *planes)
{
    memcpy(planes, from, (size_t)(count * s->plane - ABOVE * s->row) * 4);
}

static void add_planes(const Shape *s, const float *more, long count, float *planes)
{
    for (long c = 0; c < count; c++)
        for (long at = c * s->plane; at < c * s->plane + s->height * s->row; at += LANES)
            store(planes + at, load(planes + at) + load(more + at));
}

/* Adds the patch's gradients to the group's. */
static void backward(const Team *team, const Room *room, float *total)
{
    const Job *job = team->job;
    const Shape *s = &room->shape;
    const Layer *layer = &team->layers[job->blocks + 1];
    long features = job->features, outputs = job->scale * job->scale, step = features * s->plane;
    const float *block = room->before + job->blocks * step;
    float *grad = room->grad[0], *next = room->grad[1];
    weight_gradient(room, room->sum, NULL, features, room->output, outputs, total + layer->grad, 5);
    convolve(room, room->output, NULL, outputs, layer->backward, room->sum_grad, features, (Residual){0}, 5);
    copy_planes(s, room->sum_grad, features, grad);
    for (long l = job->blocks; l > 0; l--, block -= step) {
        const float *slopes = team->slope + (l - 1) * features;
        layer = &team->layers[l];
        backward_prelu(s, block, slopes, features, grad, total + team->slope_grad + (l - 1) * features);
        weight_gradient(room, block - step, l > 1 ? slopes - features : NULL, features, grad, features,
                        total + layer->grad, 3);
        convolve(room, grad, NULL, features, layer->backward, next, features, (Residual){grad, NULL, s->plane}, 3);
        float *swap = grad;
        grad = next;
        next = swap;
    }
    add_planes(s, room->sum_grad, features, grad);
    weight_gradient(room, room->input, NULL, 1, grad, features, total + team->layers[0].grad, 5);
}

/* One patch from its place to its gradients, which are added to the total; returns its absolute error. */
static double run_patch(Team *team, Room *room, const int64_t *where, float *total)
{
    cut(team->job, where, room);
    forward(team, room);
    double loss = compare(team->job, room);
    backward(team, room, total);
    return loss;
}

static float *take_planes(Arena *arena, const Shape *s, long count)
{
    float *start = take(arena, (size_t)(count * s->plane) * 4);
    return start ? start + ABOVE * s->row : NULL;
}

static float *take_points(Arena *arena, const Shape *s, long channels)
{
    float *start = take(arena, (size_t)(POINTS * multiple(channels, QUAD) * s->points) * 4);
    return start ? start + MARGIN : NULL;
}

static void set_planes(const Job *job, Room *room, Arena *arena, long height, long width, long blocks)
{
    Shape s = room->shape = shape_of(height, width);
    room->input = take_planes(arena, &s, 1);
    room->base = take_planes(arena, &s, 1);
    room->output = take_planes(arena, &s, job->scale * job->scale);
    room->before = take_planes(arena, &s, blocks * job->features);
    room->sum = take_planes(arena, &s, job->features);
}

static void set_points(const Job *job, Room *room, Arena *arena)
{
    long channels = job->features > job->scale * job->scale ? job->features : job->scale * job->scale;
    room->in_points = take_points(arena, &room->shape, channels);
    room->out_points = take_points(arena, &room->shape, channels);
}

static void set_room(const Job *job, Room *room, Arena *arena)
{
    *room = (Room){.shares = 1};
    set_planes(job, room, arena, job->patch, job->patch, job->blocks + 1);
    set_points(job, room, arena);
    room->target = take_planes(arena, &room->shape, job->scale * job->scale);
    float **single[] = {&room->sum_grad, &room->grad[0], &room->grad[1]};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        *single[i] = take_planes(arena, &room->shape, job->features);
}
