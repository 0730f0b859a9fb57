// act_apply on 8 floats. Include in files built with AVX2 and FMA.
#pragma once

#include "core/activation.h"
#include "cpu/common/lanes_avx2.h"
#include "cpu/gemm/activation_math.h"
