/* What border.c reads its inputs with. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../webapp/engine/native/dispatch.h"

#define LARGEST_BUFFER (1 << 17)
#define MOST_TENSORS 80

/* The set to compute with. */
static const char *instructions;

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count, (void)arguments;
    instructions = getenv("INSTRUCTIONS");
    if (!ops_named(instructions)) exit(77); /* this processor lacks them */
    return 0;
}

static int allocations_left; /* until the kernels' scratch is out of memory */

static void *scarce(size_t alignment, size_t size) {
    return allocations_left-- > 0 ? aligned_alloc(alignment, size) : NULL;
}

static const uint8_t *input, *input_end;
static uint64_t random_state;

static uint64_t random_number(void) { /* xorshift64 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* The input's next bytes; past its end, what its first two make. */
static uint64_t next(int bytes) {
    uint64_t value = 0;
    for (; bytes > 0; bytes--) value = value << 8 | (input < input_end ? *input++ : random_number() >> 56);
    return value;
}

static int from(int least, int most) { return least + (int)(next(most - least < 256 ? 1 : 2) % (most - least + 1)); }

static void require(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "the border is wrong: %s\n", what);
    abort();
}

/* A number near a limit, or any. */
static int64_t odd(int64_t limit) {
    switch (next(1) % 8) {
        case 0: return limit;
        case 1: return limit - (limit > INT64_MIN);
        case 2: return -1;
        case 3: return 0;
        case 4: return INT32_MAX;
        case 5: return INT64_MIN;
        case 6: return from(0, 2048);
        default: return (int64_t)next(8);
    }
}

#define NOT_FOLLOWED __attribute__((no_sanitize("coverage"))) /* the fuzzer learns nothing from these */

/* Floats of -1 to 1, or any bits. Read as int8, the former are any weights, too. */
NOT_FOLLOWED static void fill(void *buffer, int64_t bytes, bool wild) {
    for (int64_t at = 0; at + 4 <= bytes; at += 4) {
        const uint32_t bits = (uint32_t)(random_number() >> 32);
        const float value = (float)(int32_t)bits * 0x1p-31f;
        memcpy((uint8_t *)buffer + at, wild ? (const void *)&bits : (const void *)&value, 4);
    }
}

/* Memory of exactly so many elements. A pointer to none of them is not NULL. */
static void *exactly(int64_t count, size_t size) {
    void *made = malloc(count > 0 ? count * size : 0);
    require(made != NULL, "this process has no memory");
    return made;
}
