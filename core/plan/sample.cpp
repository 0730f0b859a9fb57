// Steps that read images between their pixels.
#include "core/sample.h"

#include "core/plan/reader.h"

namespace whittle {
namespace {

constexpr const char* kLacking = "reads between the pixels of an image";

struct GridSample final : Step {
  GridSampleProblem p;
  Operand x, grid, out;
  WhittleStatus run(const RunContext& c) const override {
    GridSampleProblem q = p;
    q.x = c.at<const float>(x);
    q.grid = c.at<const float>(grid);
    q.out = c.at<float>(out);
    return grid_sample(q, c.threads);
  }
  const char* lacking() const override { return kLacking; }
};

struct RoiAlign final : Step {
  RoiAlignProblem p;
  Operand x, rois, batch, out;
  WhittleStatus run(const RunContext& c) const override {
    RoiAlignProblem q = p;
    q.x = c.at<const float>(x);
    q.rois = c.at<const float>(rois);
    q.batch = c.at<const int64_t>(batch);
    q.out = c.at<float>(out);
    return roi_align(q, c.threads);
  }
  const char* lacking() const override { return kLacking; }
};

}  // namespace

// n h w c points, mode outside corners | x, grid, out
Step* make_grid_sample(PlanReader& r) {
  auto s = std::make_unique<GridSample>();
  GridSampleProblem& p = s->p;
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.points}) *v = r.size();
  p.mode = static_cast<SampleMode>(r.within(0, 2));
  p.outside = static_cast<SampleOutside>(r.within(0, 2));
  p.corners = r.within(0, 1) != 0;
  s->x = r.floats(plan_product({p.n, p.h, p.w, p.c}));
  s->grid = r.floats(plan_product({p.n, p.points, 2}));
  s->out = r.floats(plan_product({p.n, p.points, p.c}));
  return s.release();
}

// n h w c regions oh ow ratio, scale half largest | x, rois, batch, out
Step* make_roi_align(PlanReader& r) {
  auto s = std::make_unique<RoiAlign>();
  RoiAlignProblem& p = s->p;
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.regions}) *v = r.size();
  for (int64_t* v : {&p.oh, &p.ow}) *v = r.within(1, 1 << 20);
  p.ratio = r.within(0, 1 << 10);
  p.scale = r.number();
  p.half = r.within(0, 1) != 0;
  p.largest = r.within(0, 1) != 0;
  s->x = r.floats(plan_product({p.n, p.h, p.w, p.c}));
  s->rois = r.floats(plan_product({p.regions, 4}));
  s->batch = r.operand(plan_product({p.regions, 8}));
  s->out = r.floats(plan_product({p.regions, p.oh, p.ow, p.c}));
  return s.release();
}

}  // namespace whittle
