// What steps share that move elements to and from places that other tensors name (core/plan/indexing.cpp, cuda/net_pick.cu).
#pragma once
#include <stdint.h>

namespace whittle {

constexpr int kIndexRank = 8;

// What becomes of a value that an update meets.
enum ScatterJoin : int32_t { kScatterPut = 0, kScatterAdd, kScatterMul, kScatterMax, kScatterMin, kScatterJoins };

}  // namespace whittle
