// Pixels of channels become planes and the other way round, by squares of four.
#if defined(__aarch64__) || defined(_M_ARM64)
static inline void turn4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  const float32x4x2_t a = vzipq_f32(vld1q_f32(from), vld1q_f32(from + 2 * from_stride));
  const float32x4x2_t b = vzipq_f32(vld1q_f32(from + from_stride), vld1q_f32(from + 3 * from_stride));
  const float32x4x2_t low = vzipq_f32(a.val[0], b.val[0]), high = vzipq_f32(a.val[1], b.val[1]);
  vst1q_f32(to, low.val[0]);
  vst1q_f32(to + to_stride, low.val[1]);
  vst1q_f32(to + 2 * to_stride, high.val[0]);
  vst1q_f32(to + 3 * to_stride, high.val[1]);
}
#else
static inline void turn4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  const __m128 p = _mm_loadu_ps(from), q = _mm_loadu_ps(from + from_stride);
  const __m128 r = _mm_loadu_ps(from + 2 * from_stride), s = _mm_loadu_ps(from + 3 * from_stride);
  const __m128 a = _mm_unpacklo_ps(p, q), b = _mm_unpacklo_ps(r, s), c = _mm_unpackhi_ps(p, q), d = _mm_unpackhi_ps(r, s);
  _mm_storeu_ps(to, _mm_movelh_ps(a, b));
  _mm_storeu_ps(to + to_stride, _mm_movehl_ps(b, a));
  _mm_storeu_ps(to + 2 * to_stride, _mm_movelh_ps(c, d));
  _mm_storeu_ps(to + 3 * to_stride, _mm_movehl_ps(d, c));
}
#endif

// The columns past the last four, fewer than four, known to the compiler.
template <int kColumns>
static void turn_rest(const float* from, int64_t from_stride, int64_t rows, float* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; i++)
    for (int j = 0; j < kColumns; j++) to[j * to_stride + i] = from[i * from_stride + j];
}

static void turn(int64_t rows, int64_t columns, const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  const int64_t full = columns / 4 * 4;
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4)
    for (int64_t j = 0; j < full; j += 4) turn4(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
  for (; i < rows; i++)
    for (int64_t j = 0; j < full; j++) to[j * to_stride + i] = from[i * from_stride + j];
  from += full;
  to += full * to_stride;
  if (columns - full == 1) turn_rest<1>(from, from_stride, rows, to, to_stride);
  if (columns - full == 2) turn_rest<2>(from, from_stride, rows, to, to_stride);
  if (columns - full == 3) turn_rest<3>(from, from_stride, rows, to, to_stride);
}
