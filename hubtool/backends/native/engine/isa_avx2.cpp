#define HUBTOOL_ISA avx2
#define HUBTOOL_LANES 8
#define HUBTOOL_ROWS 6
#include "isa.h"

namespace hubtool {
const Kernels kernels_avx2 = avx2::table("avx2");
}
