// Feature losses, written once over the operations of vector_<isa>.h. Products and angles run in double.
// Layout of matmul64: columns of b in panels of VD_COLUMNS vectors, kDepth rows deep, packed on the stack (24 KB at
// most); VD_ROWS rows of a at a time against one panel. Limit: none.
static inline double squared_error_simd(const float* s, const float* t, int64_t n, float factor, float* g) {
  const vf f = v_set(factor);
  double sum = 0;
  for (int64_t at = 0; at < n; at += kBlock, s += kBlock, t += kBlock, g += kBlock) {
    const int64_t size = n - at < kBlock ? n - at : kBlock;
    vf acc = v_zero();
    EACH(size, {
      const vf d = v_sub(LOAD(s, v_zero()), LOAD(t, v_zero()));
      acc = v_fma(d, d, acc);
      STORE(g, v_mul(f, d));
    });
    sum += v_sum(acc);
  }
  return sum;
}

static inline vf v_power(vf a, int32_t power) {
  vf y = power > 0 ? a : v_set(1.0f);
  for (int32_t i = 1; i < power; i++) y = v_mul(y, a);
  return y;
}

static inline void attention_map_simd(const float* a, int64_t channels, int64_t n, int32_t power, float* q) {
  EACH(n, {
    vf sum = v_zero();
    for (int64_t c = 0; c < channels; c++) sum = v_add(sum, v_power(v_abs(LOAD(a + c * n, v_zero())), power));
    STORE(q, sum);
  });
}

static inline void attention_grad_simd(const float* a, int64_t channels, int64_t n, int32_t power, const float* dq,
                                       float* g) {
  const vf f = v_set((float)power);
  for (int64_t c = 0; c < channels; c++, a += n, g += n) EACH(n, {
    const vf x = LOAD(a, v_zero());
    // sign(x) * |x|^(power-1); the derivative of |x| at 0 is taken as 0
    const vf y = v_select(v_less(v_zero(), v_abs(x)), v_copysign(v_power(v_abs(x), power - 1), x), v_zero());
    STORE(g, v_mul(v_mul(f, LOAD(dq, v_zero())), y));
  });
}

#define kDepth 128
#define kWide (VD_COLUMNS * VD_LANES)

static inline void tile64(int64_t k, const double* a, int64_t lda, const double* panel, double* c, int64_t ldc,
                          int64_t columns, bool add) {
  vd acc[VD_ROWS][VD_COLUMNS];
  for (int r = 0; r < VD_ROWS; r++)
    for (int v = 0; v < VD_COLUMNS; v++) acc[r][v] = d_set(0);
  for (int64_t l = 0; l < k; l++) {
    vd b[VD_COLUMNS];
    for (int v = 0; v < VD_COLUMNS; v++) b[v] = d_load(panel + l * kWide + v * VD_LANES);
    for (int r = 0; r < VD_ROWS; r++) {
      const vd x = d_set(a[r * lda + l]);
      for (int v = 0; v < VD_COLUMNS; v++) acc[r][v] = d_fma(x, b[v], acc[r][v]);
    }
  }
  for (int r = 0; r < VD_ROWS; r++)
    for (int v = 0; v < VD_COLUMNS; v++) {
      double* to = c + r * ldc + v * VD_LANES;
      const int64_t left = columns - v * VD_LANES;
      if (left >= VD_LANES) d_store(to, add ? d_add(d_load(to), acc[r][v]) : acc[r][v]);
      else if (left > 0) d_store_part(to, add ? d_add(d_load_part(to, left), acc[r][v]) : acc[r][v], left);
    }
}

// The same sums in the same order for a single row.
static inline void row64(int64_t k, const double* a, const double* panel, double* c, int64_t columns, bool add) {
  vd acc[VD_COLUMNS];
  for (int v = 0; v < VD_COLUMNS; v++) acc[v] = d_set(0);
  for (int64_t l = 0; l < k; l++)
    for (int v = 0; v < VD_COLUMNS; v++) acc[v] = d_fma(d_set(a[l]), d_load(panel + l * kWide + v * VD_LANES), acc[v]);
  for (int v = 0; v < VD_COLUMNS; v++) {
    double* to = c + v * VD_LANES;
    const int64_t left = columns - v * VD_LANES;
    if (left >= VD_LANES) d_store(to, add ? d_add(d_load(to), acc[v]) : acc[v]);
    else if (left > 0) d_store_part(to, add ? d_add(d_load_part(to, left), acc[v]) : acc[v], left);
  }
}

static inline void matmul64_simd(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b,
                                 int64_t b_row, int64_t b_column, double* c, int64_t ldc, bool add) {
  double panel[kDepth * kWide];
  if (k == 0 && !add)
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) c[i * ldc + j] = 0;
  for (int64_t j = 0; j < n; j += kWide) {
    const int64_t wide = n - j < kWide ? n - j : kWide;
    for (int64_t l = 0; l < k; l += kDepth) {
      const int64_t deep = k - l < kDepth ? k - l : kDepth;
      const double* from = b + l * b_row + j * b_column;
      for (int64_t x = 0; x < wide; x++)
        for (int64_t y = 0; y < deep; y++) panel[y * kWide + x] = from[y * b_row + x * b_column];
      for (int64_t x = wide; x < kWide; x++)
        for (int64_t y = 0; y < deep; y++) panel[y * kWide + x] = 0;
      int64_t i = 0;
      for (; i + VD_ROWS <= m; i += VD_ROWS)
        tile64(deep, a + i * lda + l, lda, panel, c + i * ldc + j, ldc, wide, add || l > 0);
      for (; i < m; i++) row64(deep, a + i * lda + l, panel, c + i * ldc + j, wide, add || l > 0);
    }
  }
}

static inline void angle_step(const whittle::AngleRow* r, vd gs_j, vd gs_i, vd rs, vd gt_j, vd gt_i, vd rt, vd old,
                              vd* loss, vd* cosine, vd* pull, vd* fresh) {
  const vd rs_ij = d_set(r->rs_ij), delta = d_set(r->delta);
  const vd s = d_mul(d_mul(d_sub(gs_j, d_add(gs_i, d_set(r->qs))), rs), rs_ij);
  const vd t = d_mul(d_mul(d_sub(gt_j, d_add(gt_i, d_set(r->qt))), rt), d_set(r->rt_ij));
  const vd d = d_sub(s, t), h = d_min(delta, d_max(d_sub(d_set(0), delta), d)), w = d_mul(h, rs);
  *loss = d_fma(h, d_fnma(d_set(0.5), h, d), *loss);
  *cosine = d_fma(h, s, *cosine);
  *pull = d_add(*pull, w);
  *fresh = d_fma(w, rs_ij, old);
}

static inline void angle_row_simd(const whittle::AngleRow* row, int64_t n, double* p, whittle::AngleSums* sums) {
  const whittle::AngleRow r = *row;
  vd loss = d_set(0), cosine = d_set(0), pull = d_set(0), fresh;
  int64_t k = 0;
  for (; k + VD_LANES <= n; k += VD_LANES) {
    angle_step(&r, d_load(r.gs_j + k), d_load(r.gs_i + k), d_load(r.rs_i + k), d_load(r.gt_j + k), d_load(r.gt_i + k),
               d_load(r.rt_i + k), d_load(p + k), &loss, &cosine, &pull, &fresh);
    d_store(p + k, fresh);
  }
  // In the tail the inverse distances are 0, so cosines and everything else are.
  if (k < n) {
    const int64_t m = n - k;
    angle_step(&r, d_load_part(r.gs_j + k, m), d_load_part(r.gs_i + k, m), d_load_part(r.rs_i + k, m),
               d_load_part(r.gt_j + k, m), d_load_part(r.gt_i + k, m), d_load_part(r.rt_i + k, m), d_load_part(p + k, m),
               &loss, &cosine, &pull, &fresh);
    d_store_part(p + k, fresh, m);
  }
  sums->loss = d_sum(loss);
  sums->cosine = d_sum(cosine);
  sums->pull = d_sum(pull);
}

// EACH64(n, body) walks a row of doubles or of what becomes doubles: the body sees i and k (VD_LANES but in the tail, where
// loads fill up with 0) and loads by LOADD or LOADF.
#define LOADD(p) (k == VD_LANES ? d_load((p) + i) : d_load_part((p) + i, k))
#define LOADF(p) (k == VD_LANES ? d_from_floats((p) + i) : d_from_floats_part((p) + i, k))
#define STORED(p, v)                              \
  do {                                            \
    if (k == VD_LANES) d_store((p) + i, v);       \
    else d_store_part((p) + i, v, k);             \
  } while (0)
#define STOREF(p, v)                              \
  do {                                            \
    if (k == VD_LANES) d_to_floats((p) + i, v);   \
    else d_to_floats_part((p) + i, v, k);         \
  } while (0)
#define EACH64(n, ...)                           \
  do {                                           \
    int64_t i = 0;                               \
    for (; i + VD_LANES <= (n); i += VD_LANES) { \
      const int64_t k = VD_LANES;                \
      __VA_ARGS__                                \
    }                                            \
    if (i < (n)) {                               \
      const int64_t k = (n) - i;                 \
      __VA_ARGS__                                \
    }                                            \
  } while (0)

static inline void distance_row_simd(double* g, const double* diagonal, double g_ii, int64_t n, double* sums) {
  const vd own = d_set(g_ii), least = d_set(0x1p-48), one = d_set(1);
  vd total = d_set(0), count = d_set(0);
  EACH64(n, {
    const vd size = d_add(own, LOADD(diagonal)), got = LOADD(g), square = d_sub(size, d_add(got, got));
    // the tail's lanes count for nothing: they are pushed below the threshold
    vd limit = d_mul(size, least);
    if (k < VD_LANES) limit = d_max(limit, d_past(k));
    const vd d = d_sqrt(d_above(square, limit, square));
    STORED(g, d);
    total = d_add(total, d);
    count = d_add(count, d_above(d, d_set(0), one));
  });
  sums[0] = d_sum(total);
  sums[1] = d_sum(count);
}

static inline vd d_clip(vd x, vd delta) { return d_min(delta, d_max(d_sub(d_set(0), delta), x)); }

static inline void huber_row_simd(const double* s, const double* t, int64_t n, double fs, double ft, double delta, double* sums) {
  const vd by_s = d_set(fs), by_t = d_set(ft), most = d_set(delta), half = d_set(0.5);
  vd loss = d_set(0), by_scale = d_set(0);
  EACH64(n, {
    const vd a = d_mul(LOADD(s), by_s), e = d_fnma(LOADD(t), by_t, a), h = d_clip(e, most);
    loss = d_fma(h, d_fnma(half, h, e), loss);
    by_scale = d_fma(h, a, by_scale);
  });
  sums[0] = d_sum(loss);
  sums[1] = d_sum(by_scale);
}

static inline double distance_pull_simd(const double* s, const double* t, int64_t n, double fs, double ft, double delta,
                                        double shift, double factor, float* m) {
  const vd by_s = d_set(fs), by_t = d_set(ft), most = d_set(delta), away = d_set(shift), f = d_set(factor);
  vd total = d_set(0);
  EACH64(n, {
    const vd d = LOADD(s), h = d_clip(d_fnma(LOADD(t), by_t, d_mul(d, by_s)), most);
    const vd w = d_above(d, d_set(0), d_div(d_mul(f, d_sub(h, away)), d));
    STOREF(m, d_sub(d_set(0), w));
    total = d_add(total, w);
  });
  return d_sum(total);
}

static inline void gap_row_simd(const float* s, const float* t, int64_t n, double fs, double ft, double* sums) {
  const vd by_s = d_set(fs), by_t = d_set(ft);
  vd square = d_set(0), along = d_set(0);
  EACH64(n, {
    const vd a = d_mul(LOADF(s), by_s), e = d_fnma(LOADF(t), by_t, a);
    square = d_fma(e, e, square);
    along = d_fma(e, a, along);
  });
  sums[0] = d_sum(square);
  sums[1] = d_sum(along);
}

static inline double series_row_simd(float* s, const float* t, int64_t n, const double* factors, int32_t order, double base, double scale) {
  const vd one = d_set(1), by = d_set(base), f_out = d_set(scale * base);
  vd sum = d_set(0);
  EACH64(n, {
    const vd x = LOADF(s), y = LOADF(t);
    vd value = one, slope = d_set(0), other = one;
    for (int32_t p = order - 1; p >= 0; p--) {
      const vd f = d_set(factors[p]);
      slope = d_mul(f, d_fma(x, slope, value));
      value = d_fma(d_mul(f, x), value, one);
      other = d_fma(d_mul(f, y), other, one);
    }
    const vd d = d_mul(by, d_sub(value, other));
    sum = d_fma(d, d, sum);
    STOREF(s, d_mul(f_out, d_mul(d, slope)));
  });
  return d_sum(sum);
}

static inline double square_sum_simd(const float* x, int64_t n) {
  vd sum = d_set(0);
  EACH64(n, {
    const vd v = LOADF(x);
    sum = d_fma(v, v, sum);
  });
  return d_sum(sum);
}

static inline void blend_row_simd(const float* s, const float* t, int64_t n, double fs, double ft, float* out) {
  const vd by_s = d_set(fs), by_t = d_set(ft);
  EACH64(n, { STOREF(out, d_fma(by_s, LOADF(s), d_mul(by_t, LOADF(t)))); });
}

static inline void install_simd(whittle::DistillKernels* t) {
  t->soft_sums = soft_sums_simd;
  t->pair_sums = pair_sums_simd;
  t->pair_grad = pair_grad_simd;
  t->pair_terms = pair_terms_simd;
  t->soft_grad = soft_grad_simd;
  t->soft_dot = soft_dot_simd;
  t->js_sums = js_sums_simd;
  t->js_grad = js_grad_simd;
  t->mix = mix_simd;
  t->mix_grad = mix_grad_simd;
  t->squared_error = squared_error_simd;
  t->attention_map = attention_map_simd;
  t->attention_grad = attention_grad_simd;
  t->matmul64 = matmul64_simd;
  t->widen = widen_simd;
  t->distance_row = distance_row_simd;
  t->huber_row = huber_row_simd;
  t->distance_pull = distance_pull_simd;
  t->gap_row = gap_row_simd;
  t->series_row = series_row_simd;
  t->square_sum = square_sum_simd;
  t->blend_row = blend_row_simd;
  t->angle_row = angle_row_simd;
}
