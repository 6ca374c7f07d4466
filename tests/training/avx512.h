/* The AVX-512 intrinsics that bfloat16.h uses, in plain C: so its arithmetic is tested on processors without them.
 * To be included first (-include), with LANES defined as 16. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float floats __attribute__((vector_size(64)));
typedef int32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(64)));
typedef uint16_t few __attribute__((vector_size(32)));

#define __m512 floats
#define __m512i words
#define __m512bh halves
#define __m256i few
#define __mmask16 uint16_t

#define EACH for (int i = 0; i < 16; i++)
#define OF static inline __attribute__((unused))

OF floats e_loadu(const void *at) { floats v; memcpy(&v, at, 64); return v; }
OF void e_storeu(void *at, floats v) { memcpy(at, &v, 64); }
OF words e_loadi(const void *at) { words v; memcpy(&v, at, 64); return v; }
OF void e_storei(void *at, words v) { memcpy(at, &v, 64); }
OF few e_load_few(const void *at) { few v; memcpy(&v, at, 32); return v; }
OF void e_store_few(void *at, few v) { memcpy(at, &v, 32); }
OF void e_mask_store_few(void *at, uint16_t m, few v) { EACH if (m >> i & 1) memcpy((uint16_t *)at + i, &v[i], 2); }
OF words e_widen(few v) { words w; EACH w[i] = v[i]; return w; }
OF words e_insert(words v, few high) { memcpy((char *)&v + 32, &high, 32); return v; }
OF words e_low(few v) { words w = {0}; memcpy(&w, &v, 32); return w; }
OF floats e_fmadd(floats a, floats b, floats c) { return a * b + c; }
OF floats e_max(floats a, floats b) { EACH a[i] = a[i] > b[i] ? a[i] : b[i]; return a; } /* the second, if unordered */
OF floats e_min(floats a, floats b) { EACH a[i] = a[i] < b[i] ? a[i] : b[i]; return a; }
OF floats e_abs(floats a) { EACH a[i] = fabsf(a[i]); return a; }
OF float e_total(floats a) { float t = 0; EACH t += a[i]; return t; }
OF floats e_mask_add(floats from, uint16_t m, floats a, floats b) { EACH if (m >> i & 1) from[i] = a[i] + b[i]; return from; }
OF floats e_mask_sub(floats from, uint16_t m, floats a, floats b) { EACH if (m >> i & 1) from[i] = a[i] - b[i]; return from; }
OF floats e_mask_mul(floats from, uint16_t m, floats a, floats b) { EACH if (m >> i & 1) from[i] = a[i] * b[i]; return from; }
OF floats e_mask3_fmadd(floats a, floats b, floats c, uint16_t m) { EACH if (m >> i & 1) c[i] += a[i] * b[i]; return c; }
OF floats e_maskz_mov(uint16_t m, floats a) { EACH if (!(m >> i & 1)) a[i] = 0; return a; }
OF floats e_permute(words index, floats a) { floats v; EACH v[i] = a[index[i] & 15]; return v; }
OF words e_permute_halves(words index, words a)
{
    halves by = (halves)index, from = (halves)a, v;
    for (int i = 0; i < 32; i++) v[i] = from[by[i] & 31];
    return (words)v;
}
OF uint16_t e_compare(floats a, floats b, int how)
{
    uint16_t m = 0;
    EACH m |= (how == _CMP_LE_OQ ? a[i] <= b[i] : how == _CMP_GE_OQ ? a[i] >= b[i] : how == _CMP_GT_OQ ? a[i] > b[i] : a[i] < b[i]) << i;
    return m;
}
OF few e_round(floats v)
{
    few rounded;
    words bits = (words)v;
    EACH rounded[i] = v[i] != v[i] ? 0x7fc0 : (uint16_t)(((uint32_t)bits[i] + 0x7fff + ((uint32_t)bits[i] >> 16 & 1)) >> 16);
    return rounded;
}
OF floats e_dot(floats sum, halves a, halves b)
{
    words x = (words)a, y = (words)b;
    sum += (floats)(x & (int32_t)0xffff0000) * (floats)(y & (int32_t)0xffff0000);
    return sum + (floats)(x << 16) * (floats)(y << 16);
}

#define _mm512_loadu_ps e_loadu
#define _mm512_storeu_ps e_storeu
#define _mm512_loadu_si512 e_loadi
#define _mm512_storeu_si512 e_storei
#define _mm256_loadu_si256 e_load_few
#define _mm256_storeu_si256 e_store_few
#define _mm256_mask_storeu_epi16 e_mask_store_few
#define _mm512_cvtepu16_epi32 e_widen
#define _mm512_inserti64x4(v, high, one) e_insert(v, high)
#define _mm512_castsi256_si512 e_low
#define _mm512_castsi512_ps(v) ((floats)(v))
#define _mm512_castps128_ps512(v) e_from4(v)
#define _mm512_slli_epi32(v, by) ((v) << (by))
#define _mm512_srli_epi32(v, by) ((v) >> (by))
#define _mm512_set1_epi32(n) ((words){0} + (n))
#define _mm512_set1_ps(n) ((floats){0} + (float)(n))
#define _mm512_setzero_ps() ((floats){0})
#define _mm512_set_epi32(p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a) ((words){a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p})
#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_sub_ps(a, b) ((a) - (b))
#define _mm512_fmadd_ps e_fmadd
#define _mm512_max_ps e_max
#define _mm512_min_ps e_min
#define _mm512_abs_ps e_abs
#define _mm512_reduce_add_ps e_total
#define _mm512_mask_add_ps e_mask_add
#define _mm512_mask_sub_ps e_mask_sub
#define _mm512_mask_mul_ps e_mask_mul
#define _mm512_mask3_fmadd_ps e_mask3_fmadd
#define _mm512_maskz_mov_ps e_maskz_mov
#define _mm512_permutexvar_ps e_permute
#define _mm512_permutexvar_epi16 e_permute_halves
#define _mm512_cmp_ps_mask e_compare
#define _mm512_cvtneps_pbh e_round
#define _mm512_dpbf16_ps e_dot

OF floats e_from4(__m128 v) { floats w = {0}; memcpy(&w, &v, 16); return w; }
