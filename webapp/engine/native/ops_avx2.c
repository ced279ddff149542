/* AVX2 with FMA: Intel's processors since 2013, AMD's since 2015.
 * compile x86_64: -mavx2 -mfma
 */
#include "vector_avx2.h"

/* sums + products of two fours of bytes and weights each.
 *
 * VNNI sums four int8 products into 32 bits at once. AVX2's `maddubs` sums two into 16 bits and saturates, so kernels
 * usually widen after each one, which is half of their work. Here two of its results are added in 16 bits and widened
 * once. Nothing can overflow: weights are scaled (see pack.py) so that the four products that share a 16-bit lane stay
 * below 2^15 for any x in 0..255. So both give the same sums, and one packed file serves both.
 */
static inline vi dot_bytes(vi sums, vi x0, const int8_t *w0, vi x1, const int8_t *w1) {
    const vi both = _mm256_add_epi16(_mm256_maddubs_epi16(x0, v_load_bytes(w0)), _mm256_maddubs_epi16(x1, v_load_bytes(w1)));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(both, _mm256_set1_epi16(1)));
}

#define OPS ops_avx2
#define NAME "avx2"
#include "kernels.h"
