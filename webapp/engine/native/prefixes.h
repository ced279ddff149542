/* Keys and values of tokens that many rows begin with, kept for one thread: the least recently used goes first. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PREFIXES 32

typedef struct {
    int64_t *ids;  /* [length]; NULL: an empty slot */
    float *values; /* [layers][length][keys, then values, of all heads] */
    int64_t bytes; /* of both */
    uint64_t used; /* when it was, last */
    int length;
} Prefix;

typedef struct {
    Prefix slots[MOST_PREFIXES];
    int64_t bytes, most_bytes;
    uint64_t now; /* raised for each group of rows: what the present group uses stays */
} Prefixes;

static void forget(Prefixes *all, Prefix *one) {
    free(one->ids), free(one->values);
    all->bytes -= one->bytes;
    memset(one, 0, sizeof *one);
}

/* An empty slot, and bytes for it; NULL: what the present group uses takes too much. */
static Prefix *make_slot(Prefixes *all, int64_t bytes) {
    if (bytes > all->most_bytes) return NULL;
    for (;;) {
        Prefix *empty = NULL, *oldest = NULL;
        for (Prefix *each = all->slots; each < all->slots + MOST_PREFIXES; each++)
            if (!each->ids)
                empty = each;
            else if (each->used < all->now && (!oldest || each->used < oldest->used))
                oldest = each;
        if (empty && all->bytes + bytes <= all->most_bytes) return empty;
        if (!oldest) return NULL;
        forget(all, oldest);
    }
}

/* The prefix of these tokens; a new one's values are for the caller to fill in. NULL: there is no room for it. */
static Prefix *find_prefix(Prefixes *all, const int64_t *ids, int length, int64_t values, int *is_new) {
    *is_new = 0;
    for (Prefix *each = all->slots; each < all->slots + MOST_PREFIXES; each++)
        if (each->ids && each->length == length && !memcmp(each->ids, ids, length * sizeof *ids)) {
            each->used = all->now;
            return each;
        }
    const int64_t bytes = length * (int64_t)sizeof *ids + values * (int64_t)sizeof(float);
    Prefix *made = make_slot(all, bytes);
    if (!made) return NULL;
    *made = (Prefix){malloc(length * sizeof *ids), malloc(values * sizeof(float)), 0, all->now, length};
    if (!made->ids || !made->values) {
        forget(all, made);
        return NULL;
    }
    memcpy(made->ids, ids, length * sizeof *ids);
    all->bytes += made->bytes = bytes;
    *is_new = 1;
    return made;
}
