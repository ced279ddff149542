#include "dispatch.h"
#include <stddef.h>
#include <string.h>
#include "border.h"

/* Tests make a library of stand-ins for the processor's own functions, in which all of them run. */
#if defined(INTRINSICS)

static int has_any(void) { return 1; }
#define HAS_AVX2 has_any
#define HAS_AVXVNNI has_any
#define HAS_AVX512VNNI has_any

#elif defined(__x86_64__)

#include <cpuid.h>

static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static int has_avxvnni(void) {
    unsigned a = 0, b, c, d; /* compilers of these years do not know it by name */
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static int has_avx512vnni(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

#define HAS_AVX2 has_avx2
#define HAS_AVXVNNI has_avxvnni
#define HAS_AVX512VNNI has_avx512vnni

#elif defined(__aarch64__) && defined(__linux__)

#include <asm/hwcap.h>
#include <sys/auxv.h>

#ifndef HWCAP_ASIMDDP /* headers of before 2018 */
#define HWCAP_ASIMDDP (1 << 20)
#endif

static int has_neon(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
#define HAS_NEON has_neon

#endif

static int has_all(void) { return 1; }

/* The fastest first. */
static const struct {
    const Ops *ops;
    int (*usable)(void);
} ALL[] = {
#ifdef HAS_AVX2
    {&ops_avx512vnni, HAS_AVX512VNNI},
    {&ops_avxvnni, HAS_AVXVNNI},
    {&ops_avx2, HAS_AVX2},
#endif
#ifdef HAS_NEON
    {&ops_neon, HAS_NEON},
#endif
    {&ops_scalar, has_all},
};

#define COUNT ((int)(sizeof ALL / sizeof *ALL))

static int is_usable(int at) { return ALL[at].ops && ALL[at].usable(); }

const Ops *ops_named(const char *name) {
    for (int at = 0; at < COUNT; at++)
        if (is_usable(at) && (!name || !strcmp(name, ALL[at].ops->name))) return ALL[at].ops;
    return NULL;
}

const char *instruction_set(int number) {
    for (int at = 0; at < COUNT; at++)
        if (is_usable(at) && number-- == 0) return ALL[at].ops->name;
    return NULL;
}
