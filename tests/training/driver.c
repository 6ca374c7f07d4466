/* kernel.c as a program, for builds that Python cannot load: another processor's, or with sanitisers.
 * Reads a job from the first file and writes what it leaves to the second one. */

#include "kernel.c"

#include <stdio.h>

typedef struct {
    int64_t steps, rows, parameters, threads;
} Sizes;

/* Memory of exactly this size, so that a sanitiser sees the first byte past it. */
static void *read_array(FILE *file, size_t bytes)
{
    void *array = malloc(bytes ? bytes : 1);
    if (!array || fread(array, 1, bytes, file) != bytes) exit(2);
    return array;
}

/* Upscales a grey picture, for the sanitisers' sake; with bfloat16 products there is nothing that does. */
static int upscale_some(const Job *job, int64_t height, int64_t width)
{
#ifdef BFLOAT16
    return (void)job, (void)height, (void)width, 0;
#else
    float *picture = malloc((size_t)(height * width) * 4);
    float *upscaled = malloc((size_t)(height * width * job->scale * job->scale) * 4);
    if (!picture || !upscaled) return 1;
    for (int64_t i = 0; i < height * width; i++) picture[i] = 0.5f;
    int failed = sesr_upscale(job, picture, height, width, upscaled);
    free(picture), free(upscaled);
    return failed;
#endif
}

int main(int count, char **names)
{
    FILE *file = count == 3 ? fopen(names[1], "rb") : NULL;
    if (!file) return 2;
    Sizes *size = read_array(file, sizeof *size);
    Job *job = read_array(file, sizeof *job);
    size_t subpixels = (size_t)(job->scale * job->scale), all = (size_t)size->parameters * 4;
    job->threads = size->threads;
    job->rows = read_array(file, (size_t)size->rows * (1 + subpixels) * 2);
    job->corners = read_array(file, 8 * 6 * 8);
    job->order = read_array(file, 8 * subpixels * 8);
    int64_t *plan = read_array(file, (size_t)(size->steps * job->batch) * 4 * 8);
    double *rates = read_array(file, (size_t)size->steps * 8);
    float **left[] = {&job->weights, &job->average, &job->moment, &job->second, &job->largest};
    int arrays = job->amsgrad ? 5 : 4;
    for (int i = 0; i < arrays; i++) *left[i] = read_array(file, all);
    fclose(file);
    float *losses = malloc((size_t)size->steps * 4);
    if (!losses || sesr_run(job, 0, size->steps, plan, rates, losses)) return 3;
    if (upscale_some(job, 17, 40) || upscale_some(job, 40, 301)) return 3;
    file = fopen(names[2], "wb");
    if (!file || fwrite(losses, 4, (size_t)size->steps, file) != (size_t)size->steps) return 2;
    for (int i = 0; i < arrays; i++) {
        if (fwrite(*left[i], 1, all, file) != all) return 2;
        free(*left[i]);
    }
    fclose(file);
    free((void *)job->rows), free((void *)job->corners), free((void *)job->order);
    free(plan), free(rates), free(losses), free(job), free(size);
    return 0;
}
