// act_apply on 16 floats. Include in files built with AVX-512 only.
#pragma once

#include "core/activation.h"
#include "cpu/common/lanes_avx512.h"
#include "cpu/gemm/activation_math.h"
