#define HUBTOOL_ISA avx512bf16
#define HUBTOOL_LANES 16
#define HUBTOOL_ROWS 14
#include "isa.h"

namespace hubtool {
const Kernels kernels_avx512bf16 = avx512bf16::table("avx512bf16");
}
