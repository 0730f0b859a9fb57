// act_apply on 4 floats. AArch64 only.
#pragma once

#include "core/activation.h"
#include "cpu/common/lanes_neon.h"
#include "cpu/gemm/activation_math.h"
