/* Registers of 64-bit ARM: four floats. For ops_neon.c. */
#pragma once
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define ROWS 4    /* rows of a product computed together: sixteen sums of 32 registers */
#define QUERIES 4 /* queries computed together: the same */
#define COLUMNS 4 /* registers of keys or of values beside them */
#define KEEP_IN_REGISTER(v)

#define LANES 4
typedef float32x4_t vf;
typedef int32x4_t vi;

static inline vf v_load(const float *at) { return vld1q_f32(at); }
static inline void v_store(float *at, vf value) { vst1q_f32(at, value); }
static inline vf v_of(float value) { return vdupq_n_f32(value); }
static inline vi v_ints_of(int32_t value) { return vdupq_n_s32(value); }
static inline vf v_min(vf a, vf b) { return vminq_f32(a, b); }
static inline vf v_max(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }  /* c + a b */
static inline vf v_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); } /* c - a b */
static inline vf v_nearest(vf x) { return vrndnq_f32(x); }
static inline vi v_to_ints(vf x) { return vcvtnq_s32_f32(x); }
static inline vf v_to_floats(vi x) { return vcvtq_f32_s32(x); }
static inline vf v_magnitude(vf x) { return vabsq_f32(x); }
/* x * 2^n, by the exponent's bits. */
static inline vf v_scale(vf x, vi n) { return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(n, 23))); }
static inline vf v_where_negative(vf x, vf then, vf otherwise) { return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(x)), then, otherwise); }
static inline vf v_of_bytes(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return v_to_floats(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
static inline float v_sum(vf v) {
    const float32x2_t half = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
}
static inline float v_highest(vf v) { return vmaxvq_f32(v); }

/* x * inverse + shift, saturated to bytes; `count`, a multiple of 16, of them. */
static inline void store_bytes(const float *x, int count, vf inverse, vf shift, uint8_t *out) {
    for (int at = 0; at < count; at += 8) {
        const uint16x4_t low = vqmovun_s32(v_to_ints(v_fma(v_load(x + at), inverse, shift)));
        const uint16x4_t high = vqmovun_s32(v_to_ints(v_fma(v_load(x + at + 4), inverse, shift)));
        vst1_u8(out + at, vqmovn_u16(vcombine_u16(low, high)));
    }
}

/* The products are of signed bytes: x less 128 is multiplied, and what that leaves out is in the sums from the start. */
#define FIRST_SUMS(sums_of_weights) vcvtq_s32_f32(vmulq_n_f32(sums_of_weights, 128))
#define BYTES_OF(x) veorq_s32(x, vreinterpretq_s32_u8(vdupq_n_u8(0x80)))

/* sums + products of two fours of bytes and weights each. */
static inline vi dot_bytes(vi sums, vi x0, const int8_t *w0, vi x1, const int8_t *w1) {
    sums = vdotq_s32(sums, vreinterpretq_s8_s32(x0), vld1q_s8(w0));
    return vdotq_s32(sums, vreinterpretq_s8_s32(x1), vld1q_s8(w1));
}
