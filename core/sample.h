// Channels-last images read between their pixels, at places that another tensor holds.
#pragma once
#include <stdint.h>

#include "core/status.h"

namespace whittle {

enum class SampleMode : int32_t { nearest = 0, linear, cubic };
enum class SampleOutside : int32_t { zeros = 0, border, reflection };

// x: [n, h, w, c]. grid: [n, points, 2], x before y, from -1 to 1 over the image: over the centres of the outermost pixels with `corners`, else
// over their edges. out: [n, points, c]. Places are computed in double; what is NaN lies outside.
struct GridSampleProblem {
  int64_t n, h, w, c, points;
  SampleMode mode;
  SampleOutside outside;
  bool corners;
  const float *x, *grid;
  float* out;
};
WhittleStatus grid_sample(const GridSampleProblem& problem, int threads);

// Regions of an image, [regions][x1, y1, x2, y2], as oh x ow places each: means (largest: maxima of shares) of ratio x ratio samples, as
// many as pixels where ratio is 0. out: [regions, oh, ow, c]. WHITTLE_RANGE: a region of no image, or too many samples.
struct RoiAlignProblem {
  int64_t n, h, w, c, regions, oh, ow, ratio;
  double scale;
  bool half, largest;
  const float *x, *rois;
  const int64_t* batch;
  float* out;
};
WhittleStatus roi_align(const RoiAlignProblem& problem, int threads);

}  // namespace whittle
