/* 64-bit ARM with dot products, under Linux: Graviton 2 and later, Ampere Altra, Raspberry Pi 5.
 * compile aarch64: -march=armv8.2-a+dotprod
 */
#include "vector_neon.h"

#define OPS ops_neon
#define NAME "neon"
#include "kernels.h"
