// Eight rows of eight floats transposed, AVX; sixteen of sixteen, AVX-512.
#pragma once
#include <immintrin.h>
#include <stdint.h>

static inline void v_turn8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * from_stride);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

#if defined(__AVX512F__)
// Quarters of rows meet while they are loaded, which leaves half the shuffles; whole lines are written.
static inline void v_turn16(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; q++, from += 4, to += 4 * to_stride) {
    __m512 r[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const float* p = from + i * from_stride;
      r[i] = _mm512_castps128_ps512(_mm_loadu_ps(p));
      r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(p + 4 * from_stride), 1);
      r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(p + 8 * from_stride), 2);
      r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(p + 12 * from_stride), 3);
    }
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1])), b = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3])), d = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
    _mm512_storeu_ps(to, _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)));
    _mm512_storeu_ps(to + to_stride, _mm512_castpd_ps(_mm512_unpackhi_pd(a, c)));
    _mm512_storeu_ps(to + 2 * to_stride, _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)));
    _mm512_storeu_ps(to + 3 * to_stride, _mm512_castpd_ps(_mm512_unpackhi_pd(b, d)));
  }
}
#define V_TURN16 1
#endif
