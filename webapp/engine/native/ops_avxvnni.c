/* AVX2 with VNNI in its registers: Intel's processors without AVX-512 since 2021, AMD's since 2024.
 * compile x86_64: -mavx2 -mfma -mavxvnni
 */
#include "vector_avx2.h"

/* sums + products of two fours of bytes and weights each. */
static inline vi dot_bytes(vi sums, vi x0, const int8_t *w0, vi x1, const int8_t *w1) {
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sums, x0, v_load_bytes(w0)), x1, v_load_bytes(w1));
}

#define OPS ops_avxvnni
#define NAME "avxvnni"
#include "kernels.h"
