// Every header that the kernels use. It comes before a #pragma that changes
// the instruction set: functions of std must not be compiled for it, since the
// linker may let other files use them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "scan.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif
