// What a plan is: steps over views of memory. Plain data, written by Python (lower.py), run here.
//
//   arena    ┌────────┐┌──────────┐┌───────┐      activations, placed by Python; reused
//            └────────┘└──────────┘└───────┘
//   weights  packed once for one instruction set, may be a mapped file; read only
//   inputs, outputs   the caller's own arrays
//
// A View is a tensor as the kernels see it: n images of h rows of w pixels of c channels, channels
// last and next to each other. Whatever is no picture has h = 1 and w = 1: a matrix [rows, c] has
// n = rows. In the arena pixels lie at multiples of 16 elements, so kernels may write whole vectors
// up to `pixel` (what lies between c and there is nobody's, and may hold anything); around the
// pixels may be a halo, which whoever writes the view fills with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hubtool {

enum Where : int64_t { NOWHERE, ARENA, WEIGHTS, INPUT, OUTPUT };
enum Type : int64_t { F32, BF16 };

// X(name): every field is an int64, so that Python can read the layout from `layout()`.
#define HUBTOOL_VIEW(X)                                                                       \
    X(where)  /* Where */                                                                     \
    X(index)  /* which input or output */                                                     \
    X(offset) /* of the first pixel's first channel: in bytes from the start of its memory */ \
    X(type)   /* Type of the elements */                                                      \
    X(n) X(h) X(w) X(c)                                                                       \
    X(pixel) X(row) X(image) /* from one to the next, in elements */                          \
    X(top) X(left) X(bottom) X(right) /* the halo, in pixels */                               \
    X(next)   /* bytes to where the next turn's images are; 0 where every turn has the same */

#define HUBTOOL_FIELD(name) int64_t name;

struct View {
    HUBTOOL_VIEW(HUBTOOL_FIELD)
};

// What a step does; y is always its result.
#define HUBTOOL_KINDS(X)                                                                      \
    X(conv)      /* y = act(x * w + b + z), z absent or of y's shape; algorithm says how */   \
    X(depthwise) /* the same, one kernel of its own for each channel */                       \
    X(matmul)    /* y[m, n] = act(x[m, k] · z[k, n] + b): both computed, z in memory as is */ \
    X(max_pool) X(average_pool)                                                               \
    X(global_average) X(global_max)                                                           \
    X(binary)    /* y = act(x op z) */                                                        \
    X(affine)    /* y = act(x * scale[c] + shift[c]): scale at `weights`, shift at `bias` */  \
    X(unary)     /* y = act(x) */                                                             \
    X(copy)      /* y = x, between views of one shape (concatenation, halos) */               \
    X(from_nchw) /* y = x, where x is the caller's, channels first */                         \
    X(to_nchw)   /* y = x, where y is the caller's, channels first */                         \
    X(softmax)   /* over c; op 1: its logarithm */                                            \
    X(lrn)       /* local response normalization over c: size kh, alpha a, beta b, bias d */  \
    X(upsample)  /* nearest, by whole numbers kh, kw */

#define HUBTOOL_ALGORITHMS(X)                                                                 \
    X(direct)      /* an implicit matrix product over the taps */                             \
    X(winograd2)   /* F(2x2, 3x3) */                                                          \
    X(winograd4)   /* F(4x4, 3x3) */

#define HUBTOOL_ACTIVATIONS(X)                                                                \
    X(none) X(relu) X(clip) /* a, b */ X(leaky_relu) /* a */ X(sigmoid) X(tanh)               \
    X(hard_sigmoid) /* a, b */ X(hard_swish) X(silu) X(elu) /* a */ X(gelu) X(exp) X(sqrt)    \
    X(neg) X(abs) X(reciprocal) X(softplus) X(mish) X(erf) X(gelu_tanh)

#define HUBTOOL_BINARIES(X) X(add) X(sub) X(mul) X(div) X(max) X(min)

// How a binary's z is spread: as x; one row of channels for all pixels; one for each image; one
// number a pixel; one number for all. `flip` computes z op x.
#define HUBTOOL_SPREADS(X) X(same) X(channels) X(image) X(pixels) X(number)

#define HUBTOOL_ENUM(name) name,
namespace kind { enum Kind : int64_t { HUBTOOL_KINDS(HUBTOOL_ENUM) count }; }
namespace algorithm { enum Algorithm : int64_t { HUBTOOL_ALGORITHMS(HUBTOOL_ENUM) count }; }
namespace act { enum Act : int64_t { HUBTOOL_ACTIVATIONS(HUBTOOL_ENUM) count }; }
namespace binary { enum Binary : int64_t { HUBTOOL_BINARIES(HUBTOOL_ENUM) count }; }
namespace spread { enum Spread : int64_t { HUBTOOL_SPREADS(HUBTOOL_ENUM) count }; }

// Consecutive steps with one `group` that is not 0 are run in `turns`: some images at a time go
// through all of them, so that what lies between the steps stays in the cache.
#define HUBTOOL_STEP(X)                                                                       \
    X(group) X(turns)                                                                         \
    X(kind) X(algorithm) X(op) X(spread) X(flip) X(act)                                       \
    X(weights) X(bias)             /* offsets in bytes in the weights; -1: none */            \
    X(kh) X(kw) X(sh) X(sw) X(dh) X(dw) /* kernel, stride, dilation */                        \
    X(top) X(left)                 /* padding before; what is beyond follows from the sizes */ \
    X(groups) X(count_pads)        /* average_pool: whether the padding counts */             \
    X(bottom) X(right)             /* average_pool: padding behind, which may count */        \
    X(variant)                     /* a tuning choice; its meaning is the algorithm's */

struct Step {
    HUBTOOL_STEP(HUBTOOL_FIELD)
    View x, y, z;
    double a, b, d; // of the activation (lrn: its own)
};

} // namespace hubtool
