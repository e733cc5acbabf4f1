#define HUBTOOL_ISA portable
#define HUBTOOL_LANES 4
#define HUBTOOL_ROWS 6
#include "isa.h"

namespace hubtool {
const Kernels kernels_portable = portable::table("portable");
}
