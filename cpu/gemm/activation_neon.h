// act_apply on 4 floats. AArch64 only.
#pragma once

#include "core/activation.h"
#include "cpu/common/vector_neon.h"
#include "cpu/gemm/activation_math.h"
