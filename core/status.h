// What every native call answers. Plain C so that ISA files and other languages can include it.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The numbers cross into lib/native.ts (kStatus) and must not change.
typedef enum WhittleStatus {
  WHITTLE_OK = 0,
  WHITTLE_SHAPE = 1,
  WHITTLE_DTYPE = 2,
  WHITTLE_RANGE = 3,
  WHITTLE_DEVICE = 4,
  WHITTLE_OUT_OF_MEMORY = 5,
  WHITTLE_HANDLE = 6,
  WHITTLE_ABORTED = 7,
  WHITTLE_NONFINITE = 8,  // a NaN or infinity where the contract asks for finite numbers
} WhittleStatus;

#ifdef __cplusplus
}
#endif
