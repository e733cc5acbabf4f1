#define HUBTOOL_ISA avx512
#define HUBTOOL_LANES 16
#define HUBTOOL_ROWS 14
#include "isa.h"

namespace hubtool {
const Kernels kernels_avx512 = avx512::table("avx512");
}
