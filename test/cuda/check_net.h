// What checks of a plan's steps share.
#pragma once
#include "check.h"

namespace whittle {

// Queues steps as one run does; what they answer is there afterwards.
template <class Body>
WhittleStatus in_turn(Check& c, const Body& body) {
  const CudaNet& net = c.cuda().net;
  const Device<int32_t> flags(16);
  CudaTurn* turn = net.begin(0, flags);
  body(net, turn);
  return net.end(turn);
}

}  // namespace whittle
