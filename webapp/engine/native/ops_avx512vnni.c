/* AVX-512 with VNNI: Intel's servers since 2019, AMD's processors since 2022.
 * compile x86_64: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma
 */
#include "vector_avx512.h"

#define OPS ops_avx512vnni
#define NAME "avx512vnni"
#include "kernels.h"
