/* Training steps of a collapsed SESR network on the CPU, whole: crops, forward, backward, Adam, average.
 *
 * Why it exists: a SESR activation has 16 or 32 channels, so a library's convolution spends its time moving
 * activations through memory. Here one thread carries one patch through the whole network and back while its
 * activations stay in that core's cache.
 *
 * How to read it. One step is one turn of the loop in `work`, near the end, and does this to the data:
 *
 *     weights W₁, W₂ ─collapse→ small weights ─pack─┐                        each thread: some layers' outputs
 *     ─────────────────────────────── all threads meet ────────────────────
 *     plan ─cut→ luma, target      ┌────────────────┘                        each thread: one group of patches
 *                  luma ─forward→ output ─compare→ loss, its gradient        after the other
 *                                      ─backward→ the group's gradients
 *     ─────────────────────────────── all threads meet ────────────────────
 *     groups' gradients ─add_groups→ one ─unpack→ gradients of small weights
 *          ─backward_row→ gradients of W₁, W₂ ─update→ weights, average
 *
 * So: `Job` and `Team` first (what is given, what is shared), then `work`, then its stages from top to bottom. What is
 * done with one patch, forward to backward, stands in one of two files: float32.h, which runs anywhere and is the one
 * to read, or bfloat16.h, for processors that multiply pairs of bfloat16 numbers. Built with BFLOAT16, F and SCALE
 * defined it is the latter, for this number of channels and scale alone. kernel.py builds and explains the settings.
 *
 * Vectors are the compilers' own (GCC's and clang's vector_size), as wide as the processor that it is built for.
 * Sums are taken in the same order whatever the number of threads: patches are summed in groups that depend on the
 * batch alone, groups in their order, and all else is one thread's. So threads change the time and nothing else. */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#if defined LANES /* by a test */
#elif defined __AVX512F__
#define LANES 16
#elif defined __AVX__
#define LANES 8
#else
#define LANES 4
#endif
#define GROUPS 16    /* groups of patches in a batch, at most; more threads than groups find no work */
#define SUMS 4       /* rows of small weights that are collapsed at once */
#define SPINS 4000   /* pauses before a waiting thread sleeps */

/* ---- vectors ---- */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES))); /* -1 where true */
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *at) { return *(const loose *)at; }
/* A vector that is loaded once and used several times from its register: GCC would load it again for each use. */
INLINE vec load_once(const float *at)
{
    vec value = load(at);
#if defined __x86_64__
    __asm__("" : "+x"(value));
#endif
    return value;
}

INLINE void store(float *at, vec value) { *(loose *)at = value; }

/* `yes` where true, else `no`, bit for bit: minima and maxima would lose a NaN. */
INLINE vec choose(mask where, vec yes, vec no) { return (vec)((where & (mask)yes) | (~where & (mask)no)); }

INLINE float total_of(vec value)
{
    float sum = 0;
    UNROLL for (int i = 0; i < LANES; i++) sum += value[i];
    return sum;
}

/* Adds the totals of four vectors to four numbers. */
INLINE void add_sums(const vec *value, float *to)
{
    UNROLL for (int i = 0; i < 4; i++) to[i] += total_of(value[i]);
}

/* The first `count` of a vector's numbers, zeros after them. */
INLINE vec load_some(const float *at, long count)
{
    if (count >= LANES) return load(at);
    vec value = {0};
    for (int i = 0; i < count; i++) value[i] = at[i];
    return value;
}

INLINE void store_some(float *at, vec value, long count)
{
    if (count >= LANES) store(at, value);
    else
        for (int i = 0; i < count; i++) at[i] = value[i];
}

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long multiple(long count, long of) { return (count + of - 1) / of * of; }

/* ---- what is given and what is shared ---- */

typedef struct {
    int64_t blocks, features, feature_size, scale, patch, batch, threads; /* blocks: the paper's m */
    int64_t amsgrad, clip_output, input_residual, relu; /* relu: there are no slopes */
    double offset; /* what the tail's result is added to if it is not the input */
    double beta1, beta2, eps, clip_norm, ema_decay; /* clip_norm and ema_decay: 0 means none */
    double pace[4];                                 /* what the rate is multiplied with: head, body, tail, slopes */
    const int16_t *rows;                            /* PatchPool.rows */
    double level;                                   /* value of one step of rows */
    const int64_t *corners;                         /* (8, 3, 2): where pixels (0,0), (0,1), (1,0) come from */
    const int64_t *order;                           /* (8, scale²): where a target's channel comes from */
    float *weights, *moment, *second, *largest, *average; /* all parameters: head, body, tail, slopes */
} Job;

#ifdef BFLOAT16
typedef uint16_t Packed;
#else
typedef float Packed;
#endif

/* One linear block: its place in the flat parameters and in a group's gradients, and its small convolution. */
typedef struct {
    long expand, project, grad, inputs, outputs, kernel;
    long stride;               /* of the rows of small weights: inputs · k² and what fills the last vector */
    float *small, *small_grad; /* (outputs, inputs, k, k) */
    Packed *forward, *backward; /* the same, as the products want it */
} Layer;

typedef struct Room Room; /* what one thread works in */

typedef struct {
    const Job *job;
    long first, steps;
    const int64_t *plan;
    const double *rates;
    float *losses;
    const float *picture;       /* (height, width): what is upscaled, where nothing is trained */
    long height, width;
    float *upscaled;            /* (scale², height, width) */
    long layer_count, groups;
    long parameters, slopes;    /* their number, and the slopes' place among them */
    long gradients, slope_grad; /* the same in a group's gradients */
    Layer *layers;              /* head, body, tail */
    float *slope;               /* (m, slope_row) */
    float *grad;                /* of all parameters */
    float **group_grad;         /* by group: layers, slopes */
    double *group_loss;
    double *squares;            /* of gradients: a sum for each row of each W₁ and column of its W₂; slopes */
    Room *rooms;                /* by thread */
    atomic_long next_group;
    atomic_int waiting, phase, signal; /* signal: 0 until all threads stand ready */
    pthread_mutex_t lock;
    pthread_cond_t turned;
} Team;

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

/* How a patch's pixels follow one another in the picture: a symmetry is linear in row and column. */
typedef struct {
    long start, right, down;
} Walk;

INLINE Walk walk_of(const Job *job, const int64_t *where)
{
    const int64_t *corner = job->corners + where[2] * 6;
    Walk walk = {.start = where[0] + corner[0] * where[1] + corner[1]};
    walk.right = where[0] + corner[2] * where[1] + corner[3] - walk.start;
    walk.down = where[0] + corner[4] * where[1] + corner[5] - walk.start;
    return walk;
}

/* ---- threads ---- */

INLINE void pause_briefly(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

/* All threads meet here. Who waits spins for some microseconds, as the others are at work on their cores; where other
 * processes want these cores too, it then sleeps: a spinning thread would keep the core from the one it waits for. */
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
    for (long spins = 0; spins < SPINS; spins++, pause_briefly())
        if (atomic_load(&team->phase) != phase) return;
    pthread_mutex_lock(&team->lock);
    while (atomic_load(&team->phase) == phase) pthread_cond_wait(&team->turned, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

enum { GO = 1, GIVE_UP = 2 };

typedef struct {
    Team *team;
    void (*job)(Team *, long);
    long thread;
} Member;

static void *start(void *argument)
{
    Member *member = argument;
    while (!atomic_load(&member->team->signal)) sched_yield();
    if (atomic_load(&member->team->signal) == GO) member->job(member->team, member->thread);
    return NULL;
}

/* Has all threads of the team do this job; returns 1, with nothing done, where there are no more threads to be had. */
static int do_together(Team *team, void (*job)(Team *, long))
{
    long count = team->job->threads, started = 1;
    Member members[count];
    pthread_t threads[count];
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->turned, NULL);
    for (long t = 0; t < count; t++) members[t] = (Member){team, job, t};
    while (started < count && !pthread_create(&threads[started], NULL, start, &members[started])) started++;
    int failed = started < count;
    atomic_store(&team->signal, failed ? GIVE_UP : GO);
    start(&members[0]);
    for (long t = 1; t < started; t++) pthread_join(threads[t], NULL);
    return failed;
}

#ifdef BFLOAT16
#include "bfloat16.h"
#else
#include "float32.h"
#endif

/* ---- collapse ---- */

/* W₂W₁ in SIDES vectors of columns for up to SUMS outputs from `first` on. */
#define SIDES 3
INLINE void collapse_columns(const Job *job, const Layer *layer, long column, long first, int whole)
{
    long size = layer->inputs * layer->kernel * layer->kernel, width = job->feature_size;
    const float *expand = job->weights + layer->expand + column, *project[SUMS];
    vec sum[SUMS * SIDES] = {0};
    UNROLL for (int o = 0; o < SUMS; o++)
        project[o] = job->weights + layer->project + least(first + o, layer->outputs - 1) * width;
    for (long p = 0; p < width; p++, expand += size)
        UNROLL for (int i = 0; i < SIDES; i++) {
            long at = i * LANES;
            long left = whole ? LANES : size - column - at;
            vec row = left > 0 ? load_some(expand + at, left) : (vec){0};
            UNROLL for (int o = 0; o < SUMS; o++) sum[o * SIDES + i] += project[o][p] * row;
        }
    for (long o = 0; o < SUMS && first + o < layer->outputs; o++)
        for (long i = 0; i < SIDES && column + i * LANES < layer->stride; i++)
            store(layer->small + (first + o) * layer->stride + column + i * LANES, sum[o * SIDES + i]);
}

/* The small weights of up to SUMS outputs from `first` on, packed. */
static void collapse_outputs(const Job *job, const Layer *layer, long first)
{
    long size = layer->inputs * layer->kernel * layer->kernel, column = 0;
    for (; column + SIDES * LANES <= size; column += SIDES * LANES) collapse_columns(job, layer, column, first, 1);
    if (column < size) collapse_columns(job, layer, column, first, 0);
    for (long output = first; output < least(first + SUMS, layer->outputs); output++)
        for (long input = 0; input < layer->inputs; input++) pack(layer, output, input);
}

/* Where slope i lies in rows of slopes. */
static long slope_at(const Team *team, long i)
{
    return i / team->job->features * slope_row(team->job) + i % team->job->features;
}

/* This thread's share of the small convolutions, and the slopes. */
static void collapse(const Team *team, long thread)
{
    const Job *job = team->job;
    long unit = 0;
    for (long l = 0; l < team->layer_count; l++)
        for (long first = 0; first < team->layers[l].outputs; first += SUMS)
            if (unit++ % job->threads == thread) collapse_outputs(job, &team->layers[l], first);
    for (long i = thread; i < team->parameters - team->slopes; i += job->threads)
        team->slope[slope_at(team, i)] = job->weights[team->slopes + i];
}

/* This thread's groups of patches: whoever is free takes the next. */
static void run_groups(Team *team, long thread, const int64_t *plan)
{
    const Job *job = team->job;
    for (long g; (g = atomic_fetch_add(&team->next_group, 1)) < team->groups;) {
        memset(team->group_grad[g], 0, (size_t)team->gradients * 4);
        team->group_loss[g] = 0;
        for (long n = job->batch * g / team->groups; n < job->batch * (g + 1) / team->groups; n++)
            team->group_loss[g] += run_patch(team, &team->rooms[thread], plan + 4 * n, team->group_grad[g]);
    }
}

/* Adds this thread's share of all groups' gradients to the first group's. */
static void add_groups(const Team *team, long thread)
{
    long share = multiple((team->gradients + team->job->threads - 1) / team->job->threads, 16);
    long end = least(share * (thread + 1), team->gradients);
    float *restrict to = team->group_grad[0];
    for (long g = 1; g < team->groups; g++) {
        const float *restrict from = team->group_grad[g];
        for (long i = share * thread; i < end; i++) to[i] += from[i];
    }
}

/* This thread's share of the small weights' and the slopes' gradients, as means over the batch's subpixels. */
static void gather_gradients(const Team *team, long thread)
{
    const Job *job = team->job;
    float mean = 1.0f / (float)(job->batch * job->patch * job->patch * job->scale * job->scale);
    const float *from = team->group_grad[0];
    long unit = 0;
    for (long l = 0; l < team->layer_count; l++) {
        const Layer *layer = &team->layers[l];
        long taps = layer->kernel * layer->kernel;
        for (long output = 0; output < layer->outputs; output++) {
            if (unit++ % job->threads != thread) continue;
            for (long input = 0; input < layer->inputs; input++) {
                float *to = layer->small_grad + output * layer->stride + input * taps;
                unpack(layer, from + layer->grad, output, input, to);
                for (long tap = 0; tap < taps; tap++) to[tap] *= mean;
            }
        }
    }
    for (long i = thread; i < team->parameters - team->slopes; i += job->threads)
        team->grad[team->slopes + i] = mean * from[team->slope_grad + slope_at(team, i)];
}

/* What backward_row gathers over a row's columns for SUMS outputs. */
typedef struct {
    vec dot[SUMS], squares; /* of the row with their gradients; of the row's own gradient */
    float factor[SUMS];     /* column p of W₂ */
} RowSums;

/* A vector of columns, or the `left` that remain: `small` and `out` are theirs, as is `row` of W₁. */
INLINE void backward_columns(RowSums *sums, const float *row, const float *small, long stride, float *out, long left,
                             int first, int last)
{
    vec weight = load_some(row, left), sum = first ? (vec){0} : load_some(out, left);
    UNROLL for (int o = 0; o < SUMS; o++) {
        vec grad = load(small + o * stride);
        sums->dot[o] += weight * grad;
        sum += sums->factor[o] * grad;
    }
    if (last) sums->squares += sum * sum;
    store_some(out, sum, left);
}

/* Row p of W₁'s gradient and column p of W₂'s; returns the sum of their squares. */
static double backward_row(const Team *team, const Layer *layer, long p)
{
    const Job *job = team->job;
    long size = layer->inputs * layer->kernel * layer->kernel, width = job->feature_size, outputs = layer->outputs;
    const float *row = job->weights + layer->expand + p * size, *project = job->weights + layer->project + p;
    float *out = team->grad + layer->expand + p * size, *out_project = team->grad + layer->project + p;
    double norm = 0;
    for (long o = 0; o < outputs; o += SUMS) {
        const float *small = layer->small_grad + o * layer->stride;
        int first = o == 0, last = o + SUMS >= outputs;
        RowSums sums = {0};
        float totals[SUMS] = {0};
        for (int i = 0; i < SUMS && o + i < outputs; i++) sums.factor[i] = project[(o + i) * width];
        long column = 0;
        for (; column + LANES <= size; column += LANES)
            backward_columns(&sums, row + column, small + column, layer->stride, out + column, LANES, first, last);
        if (column < size)
            backward_columns(&sums, row + column, small + column, layer->stride, out + column, size - column, first,
                             last);
        add_sums(sums.dot, totals);
        for (int i = 0; i < SUMS && o + i < outputs; i++) {
            out_project[(o + i) * width] = totals[i];
            norm += (double)totals[i] * totals[i];
        }
        norm += total_of(sums.squares);
    }
    return norm;
}

/* Gradients of this thread's share of W₁ and W₂, and the sums of squares. */
static void backward_collapse(const Team *team, long thread)
{
    const Job *job = team->job;
    long width = job->feature_size, slopes = team->layer_count * width;
    for (long l = 0; l < team->layer_count; l++)
        for (long p = width * thread / job->threads; p < width * (thread + 1) / job->threads; p++)
            team->squares[l * width + p] = backward_row(team, &team->layers[l], p);
    for (long i = thread; i < job->blocks && !job->relu; i += job->threads) {
        const float *grad = team->grad + team->slopes + i * job->features;
        team->squares[slopes + i] = 0;
        for (long c = 0; c < job->features; c++) team->squares[slopes + i] += (double)grad[c] * grad[c];
    }
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
    for (long i = 0; i < team->layer_count * job->feature_size + job->blocks; i++) norm += team->squares[i];
    double limit = job->clip_norm / (sqrt(norm) + 1e-6);
    Move move = {
        .shrink = job->clip_norm > 0 && !(limit >= 1) ? (float)limit : 1, /* not a number stays one */
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

/* ---- one step after the other ---- */

static float mean_loss(const Team *team)
{
    const Job *job = team->job;
    double loss = 0;
    for (long g = 0; g < team->groups; g++) loss += team->group_loss[g];
    return (float)(loss / (double)(job->batch * job->patch * job->patch * job->scale * job->scale));
}

static void work(Team *team, long thread)
{
    for (long step = 0; step < team->steps; step++) {
        collapse(team, thread);
        meet(team);
        run_groups(team, thread, team->plan + step * team->job->batch * 4);
        meet(team);
        add_groups(team, thread);
        if (thread == 0) {
            team->losses[step] = mean_loss(team);
            atomic_store(&team->next_group, 0);
        }
        meet(team);
        gather_gradients(team, thread);
        meet(team);
        backward_collapse(team, thread);
        meet(team);
        update(team, thread, step, team->rates[step]);
        meet(team);
    }
}

/* ---- memory ---- */

static void set_layers(Team *team, Arena *arena)
{
    const Job *job = team->job;
    long features = job->features, width = job->feature_size, in_head = 25 * width, in_block = 9 * features * width;
    long body = in_head + features * width, tail = body + job->blocks * (in_block + features * width), grad = 0;
    for (long l = 0; l < team->layer_count; l++) {
        int first = l == 0, last = l == team->layer_count - 1;
        Layer layer = {.inputs = first ? 1 : features, .outputs = last ? job->scale * job->scale : features,
                       .kernel = first || last ? 5 : 3, .grad = grad};
        layer.stride = multiple(layer.inputs * layer.kernel * layer.kernel, LANES);
        layer.expand = first ? 0 : last ? tail : body + (l - 1) * in_block;
        layer.project = first  ? in_head
                        : last ? tail + 25 * features * width
                                  : body + job->blocks * in_block + (l - 1) * features * width;
        layer.small = take(arena, (size_t)(multiple(layer.outputs, SUMS) * layer.stride) * 4);
        layer.small_grad = take(arena, (size_t)(multiple(layer.outputs, SUMS) * layer.stride) * 4);
        layer.forward = take(arena, (size_t)packed_size(&layer, layer.inputs, layer.outputs) * sizeof(Packed));
        layer.backward = take(arena, (size_t)packed_size(&layer, layer.outputs, layer.inputs) * sizeof(Packed));
        grad += gradient_size(&layer);
        if (team->layers) team->layers[l] = layer;
    }
    team->slope_grad = grad;
    team->gradients = grad + job->blocks * slope_row(job);
    team->slopes = tail + (25 * features + job->scale * job->scale) * width;
    team->parameters = team->slopes + (job->relu ? 0 : job->blocks * features);
}

/* What training and upscaling need alike. */
static void set_network(Team *team, Arena *arena)
{
    const Job *job = team->job;
    team->layer_count = job->blocks + 2;
    team->layers = take(arena, (size_t)team->layer_count * sizeof(Layer));
    team->rooms = take(arena, (size_t)job->threads * sizeof(Room));
    team->slope = take(arena, (size_t)(job->blocks * slope_row(job)) * 4);
    set_layers(team, arena);
}

static void set_training(Team *team, Arena *arena)
{
    const Job *job = team->job;
    set_network(team, arena);
    team->groups = least(job->batch, GROUPS);
    team->group_loss = take(arena, (size_t)team->groups * sizeof(double));
    team->squares = take(arena, (size_t)(team->layer_count * job->feature_size + job->blocks) * sizeof(double));
    team->group_grad = take(arena, (size_t)team->groups * sizeof(float *));
    team->grad = take(arena, (size_t)team->parameters * 4);
    for (long g = 0; g < team->groups; g++) {
        float *grad = take(arena, (size_t)team->gradients * 4);
        if (arena->start) team->group_grad[g] = grad;
    }
    Room counted;
    for (long t = 0; t < job->threads; t++) set_room(job, arena->start ? &team->rooms[t] : &counted, arena);
}

/* The memory that `set` lays out for the team, to be freed by its start; NULL if there is none. */
static void *prepare(Team *team, void (*set)(Team *, Arena *))
{
    Arena arena = {0};
    set(team, &arena);
    arena.start = aligned_alloc(64, arena.used);
    if (!arena.start) return NULL;
    memset(arena.start, 0, arena.used);
    arena.used = 0;
    set(team, &arena);
    return arena.start;
}

/* ---- what kernel.py calls ---- */

/* Cuts `count` patches and drops them: what the data costs, for the benchmark. Returns as sesr_run does. */
int sesr_cut(const Job *job, int64_t count, const int64_t *plan)
{
    Team team = {.job = job};
    void *memory = prepare(&team, set_training);
    if (!memory) return 1;
    for (int64_t n = 0; n < count; n++) cut(job, plan + 4 * n, &team.rooms[0]);
    free(memory);
    return 0;
}

/* Runs `steps` steps after `first` earlier ones. plan is (steps, batch, 4), rates and losses are (steps,).
 * Returns 0, or 1 where memory or threads ran out before anything was changed. */
int sesr_run(const Job *job, int64_t first, int64_t steps, const int64_t *plan, const double *rates, float *losses)
{
    Team team = {.job = job, .first = first, .steps = steps, .plan = plan, .rates = rates, .losses = losses};
    void *memory = prepare(&team, set_training);
    if (!memory) return 1;
    int failed = do_together(&team, work);
    free(memory);
    return failed;
}

#ifndef BFLOAT16
/* Upscales one picture of team->height × team->width, 16 × 16 at least; strips are shared out. */
static void upscale(Team *team, long thread)
{
    const Room *room = &team->rooms[thread];
    const Shape *s = &room->shape;
    long width = s->width, rows = team->job->scale * team->job->scale * s->height;
    collapse(team, thread);
    for (long y = thread; y < s->height; y += room->shares)
        for (long x = 0; x < width; x++) {
            float luma = team->picture[y * width + x];
            room->input[y * s->row + x] = luma - 0.5f;
            room->base[y * s->row + x] = team->job->input_residual ? luma : (float)team->job->offset;
        }
    meet(team);
    forward(team, room);
    for (long y = thread; y < rows; y += room->shares) {
        const float *from = room->output + y / s->height * s->plane + y % s->height * s->row;
        memcpy(team->upscaled + y * width, from, (size_t)width * 4);
    }
}

static void set_upscaling(Team *team, Arena *arena)
{
    set_network(team, arena);
    Room room = {.shares = team->job->threads};
    set_planes(team->job, &room, arena, team->height, team->width, 3);
    for (long t = 0; t < team->job->threads; t++) {
        room.share = t;
        set_points(team->job, &room, arena);
        if (arena->start) team->rooms[t] = room;
    }
}

/* Runs the network on a picture (height, width), 16 × 16 at least: subpixels (scale², height, width).
 * Of the job, what concerns training is not read. Returns as sesr_run does. */
int sesr_upscale(const Job *job, const float *picture, int64_t height, int64_t width, float *upscaled)
{
    Team team = {.job = job, .picture = picture, .height = height, .width = width, .upscaled = upscaled};
    void *memory = prepare(&team, set_upscaling);
    if (!memory) return 1;
    int failed = do_together(&team, upscale);
    free(memory);
    return failed;
}
#endif
